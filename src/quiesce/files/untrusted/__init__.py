"""Reads files that somebody else may have made: within limits, without running code from them.

Each module reads one kind of file and raises ValueError with the reason; the caller adds the name
of the file and what to do. `format_version` raises a complete message. Nothing here imports torch.
docs/reliability.md lists the guarantees and their tests.
"""
