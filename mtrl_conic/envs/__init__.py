"""Environments: the vector that steps them, the Meta-World tasks, any of gymnasium's and a toy."""
