"""What is done with a finished run: evaluate, diagnose, probe, export."""
