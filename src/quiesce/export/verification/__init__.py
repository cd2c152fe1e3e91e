"""Compares a file with the trained network, layer by layer and as a whole."""
