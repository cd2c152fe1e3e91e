"""Detects numbers that are not finite between backward and step, and names the layer."""
