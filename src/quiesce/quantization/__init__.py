"""From a float model to a prepared one: which tensors are rounded, by what, with which scale."""
