"""Training in several processes: agreement, split weights, synchronized batch norm."""
