"""Reads run folders as data for the page."""
