"""What is measured: one file a claim. A measurement yields rows from a Lab; bench/figures draws them."""
