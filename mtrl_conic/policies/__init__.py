"""What acts after training, out of a run's checkpoints."""
