"""Work on finished runs: evaluate, diagnose, probe, export."""
