"""Hyperparameter searches as trials of a study."""
