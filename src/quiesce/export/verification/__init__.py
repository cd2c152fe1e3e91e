"""Comparing a written file with the trained network, layer by layer and end to end."""
