"""Distributed training: communication, split weights and synchronized batch norm."""
