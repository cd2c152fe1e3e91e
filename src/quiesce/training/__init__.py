"""Whole runs: from a recipe to a folder with the trained network and what was measured.

Needs the extra `train`: pip install 'quiesce[train]'.
"""
