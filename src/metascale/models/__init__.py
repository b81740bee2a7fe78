"""Parameters and a batch give one loss a task; every model carries a leading task axis."""
