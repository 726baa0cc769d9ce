"""Training: wires private data to mechanisms and mechanisms to the optimiser."""
