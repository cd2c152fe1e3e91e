"""Where the tasks of a sweep run: one file for each engine."""
