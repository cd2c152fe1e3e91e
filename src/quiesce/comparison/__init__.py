"""Compares finished runs over their seeds; reads run folders, without torch."""
