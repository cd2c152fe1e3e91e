"""Records data while a run trains."""
