"""Grids of recipes and seeds, run on this machine, on Ray or on Slurm, and resumable.

Needs the extra `train`: pip install 'quiesce[train]'.
"""
