"""The traced network: what is found in its graph, and how it is rewritten."""
