"""Running trials: the session of one call, jobs, and the processes that they run in."""
