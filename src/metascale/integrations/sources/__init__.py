"""Readers of other programs' runs: experiment trackers, log folders, searches; `read.read_source` picks one."""
