"""Accesses the fields of a recipe by their dotted names."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any


def dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of every field in nested sections.

    >>> dict(dotted({"seed": 0, "cure": {"strength": {"end": 0.1}}}))
    {'seed': 0, 'cure.strength.end': 0.1}
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shortened(names: Iterable[str], separator: str = ".") -> dict[str, str]:
    """Return the shortest end of each dotted name that no other name has.

    >>> shortened(["weights.lr", "scales.lr", "cure.strength.end"])
    {'weights.lr': 'weights.lr', 'scales.lr': 'scales.lr', 'cure.strength.end': 'end'}
    """
    words = {name: name.split(separator) for name in names}
    ends = {
        name: [separator.join(each[-n:]) for n in range(1, len(each) + 1)]
        for name, each in words.items()
    }
    taken = Counter(end for each in ends.values() for end in each)
    return {
        name: next((end for end in each if taken[end] == 1), name) for name, each in ends.items()
    }
