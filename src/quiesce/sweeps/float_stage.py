"""`python -m quiesce.sweeps.float_stage RECIPE FOLDER`: the float network that runs share.

A process of its own, as a run is: it takes its memory along, and several devices work as there.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from quiesce.errors import QuiesceError
from quiesce.recipes.reading import read_recipe
from quiesce.run_folder.folder import FLOAT_CHECKPOINT, run_folder
from quiesce.training.display import Display
from quiesce.training.job import load
from quiesce.training.stages import float_stage
from quiesce.training.trainer import is_first_process


def train_float(recipe: str, folder: Path) -> None:
    """Train the float stage of a recipe; `folder` then holds float.safetensors.

    Raises:
        QuiesceError: Something that the message tells how to mend.
    """
    job = load(read_recipe(recipe, [f"--run={folder}"]), Display())
    with run_folder(folder, owner=is_first_process()):
        float_stage(job)
        if is_first_process():
            shutil.rmtree((folder / FLOAT_CHECKPOINT).parents[1], ignore_errors=True)


def main(argv: Sequence[str]) -> int:
    """Do that; what the user can mend is one line on stderr and exit code 2."""
    recipe, folder = argv
    try:
        train_float(recipe, Path(folder))
    except QuiesceError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
