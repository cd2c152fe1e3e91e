"""Measuring oscillation: the tracker, its state, and what it reports of each layer."""
