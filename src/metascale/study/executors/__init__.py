"""Where trials run: on this machine, on a Ray cluster, or on a SLURM cluster."""
