"""The recipes that quiesce includes. Listing them imports no library, so it is fast."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"
"""Folder of the recipes that quiesce includes."""


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that quiesce includes, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def title_of(path: Path) -> str:
    """Return the description of a shipped YAML file: the comment in its first line."""
    with path.open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()
