"""The one training loop, and the optimisers that every level of training uses."""
