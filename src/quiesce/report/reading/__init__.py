"""Run folders as data for the page."""
