"""Output of commands with `--json`: one object with a `version`; see docs/json.md."""

import json
from collections.abc import Mapping
from typing import Any

VERSION = 1
"""Version of the objects that only the command line prints; files have their own versions."""


def print_json(tree: Mapping[str, Any]) -> None:
    """Print `tree` and a `version` as JSON; a number that is not finite becomes null."""
    finite = json.loads(json.dumps({"version": VERSION, **tree}), parse_constant=lambda _: None)
    print(json.dumps(finite, indent=2))
