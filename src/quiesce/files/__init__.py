"""Reading and writing files: our own atomically, those of others within limits."""
