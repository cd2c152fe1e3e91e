"""Resumes training from a checkpoint, with bit-identical results."""
