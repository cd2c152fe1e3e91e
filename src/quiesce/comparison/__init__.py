"""Finished runs, grouped by recipe and told apart from noise; reads run folders alone, no torch."""
