"""Recipes: the configuration of a run as one tree of dataclasses, read from YAML and flags."""
