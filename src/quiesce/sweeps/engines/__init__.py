"""Engines that run the tasks of a sweep, one file each."""
