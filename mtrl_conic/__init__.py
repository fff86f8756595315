"""Multi-task reinforcement learning with gradient combiners."""

__version__ = "0.1.0"
