"""A study's folder: files, records, checkpoints, claims, index and table."""
