"""Prepares a float model: which tensors are rounded, by which quantizer, with which scale."""
