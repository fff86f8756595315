"""The two-task toy problem of the gradient-combining literature; `python -m mtrl_conic.toy` runs and draws it."""
