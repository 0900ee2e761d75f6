"""A run: what was asked, its directory, and sweeps of runs."""
