"""Loops as users of other libraries write them, and the same loops with quiesce."""
