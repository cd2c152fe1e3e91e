"""The description in the header of network.safetensors, as other programs read it."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open


def read_description(path: Path) -> dict[str, Any]:
    """What `quiesce.run_folder.network_file.describe` returned for the network in a file."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["quiesce"])
