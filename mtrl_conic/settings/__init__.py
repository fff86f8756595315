"""The settings of a run: their schema, how they are composed, and what is said of those that cannot be used."""
