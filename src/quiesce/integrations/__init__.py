"""Other people's trainers, one folder each."""
