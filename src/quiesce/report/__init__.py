"""Writes an HTML page about one or more runs."""
