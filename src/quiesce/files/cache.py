"""The folder for what quiesce can make or fetch again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `quiesce` in `$XDG_CACHE_HOME`, or else in `~/.cache`; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quiesce"
