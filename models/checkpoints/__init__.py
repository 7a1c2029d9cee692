"""Foreign weights, one file per origin."""
