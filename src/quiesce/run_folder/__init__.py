"""The files that a run leaves, and their formats."""
