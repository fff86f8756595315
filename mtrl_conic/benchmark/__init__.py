"""Measurements of speed: `python -m mtrl_conic.benchmark`."""
