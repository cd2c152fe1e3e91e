"""Compares finished runs over their seeds; it reads run folders, without torch."""
