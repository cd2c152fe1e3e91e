"""The target executorch: a .pte file for XNNPACK, the processors of phones."""
