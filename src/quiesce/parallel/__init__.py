"""Training in several processes: agreement, split weights, synchronised batch norm."""
