"""Reading and writing files: atomically what is ours, within limits what is not."""
