"""Shell patterns that cover many names, for short error messages."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase


def covering(names: Iterable[str], others: Collection[str]) -> list[str]:
    """Return shell patterns that match all of `names` and none of `others`.

    >>> covering(["aux.conv", "aux.fc", "fc"], ["conv1"])
    ['aux.*', 'fc']
    """
    patterns: list[str] = []
    names = list(names)
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        parts = name.split(".")
        groups = (".".join(parts[:i]) + ".*" for i in range(1, len(parts)))
        free = (g for g in groups if not any(fnmatchcase(other, g) for other in others))
        group = next(free, name)
        several = sum(fnmatchcase(each, group) for each in names) > 1
        patterns.append(group if several else name)
    return patterns
