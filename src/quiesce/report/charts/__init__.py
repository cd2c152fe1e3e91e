"""The charts of the page: one idea per file, each None where a run has not what it shows."""
