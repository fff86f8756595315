"""What is asked of the machine: random streams, cores, memory, matrix products, CUDA graphs, signals."""
