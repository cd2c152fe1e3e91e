"""Charts of the page: one per file; each returns None if the run lacks the data."""
