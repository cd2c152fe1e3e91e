"""Compares the numbers in any exported file with those of the trained network, layer by layer."""
