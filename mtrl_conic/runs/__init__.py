"""A run's folder: its lock, checkpoints, records and event files."""
