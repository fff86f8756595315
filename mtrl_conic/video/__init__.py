"""Videos of evaluated episodes."""
