"""Analyses and rewrites the traced graph."""
