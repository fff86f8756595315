"""Per-task gradients: of our networks from one backward pass, and of any torch module."""
