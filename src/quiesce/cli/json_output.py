"""Output of commands with `--json`: one object with a `version`; see docs/json.md."""

import json
import math
from collections.abc import Mapping
from typing import Any

VERSION = 1
"""Version of the objects that only the command line prints; files have their own versions."""


def print_json(tree: Mapping[str, Any]) -> None:
    """Print `tree` as JSON; a number that is not finite becomes null, because JSON has none.

    Args:
        tree: The object; its `version` is `VERSION` unless given.
    """
    print(json.dumps(_finite({"version": VERSION, **tree}), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
