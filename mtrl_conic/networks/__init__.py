"""Networks over flat parameters, for S seeds and K tasks at once."""
