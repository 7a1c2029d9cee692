"""Pure functions on tensors, one folder per operation; a plain PyTorch reference stands beside every kernel."""
