"""What learns: an agent, and the parts that agents are made of."""
