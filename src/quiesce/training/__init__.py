"""Runs a recipe and writes a folder with the trained network and its measurements.

Needs the extra `train`: pip install 'quiesce[train]'.
"""
