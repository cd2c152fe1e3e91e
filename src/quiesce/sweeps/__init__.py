"""Grids of recipes and seeds, run as processes, resumable.

Needs the extra `train`: pip install 'quiesce[train]'.
"""
