"""One page that shows what happened in a run."""
