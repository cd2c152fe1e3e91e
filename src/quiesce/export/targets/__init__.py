"""Runtimes and tools that quiesce exports to: one file or folder for each, one interface."""
