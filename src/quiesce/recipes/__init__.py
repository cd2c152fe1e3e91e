"""A recipe: everything that decides a run, as one tree of dataclasses, read from YAML and flags."""
