"""Trained runs that tests share: each is made once, whatever the number of pytest's processes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from support import tiny


def trainer_of(factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `trained(recipe, *flags)`, which gives the folder of a finished run.

    Tests only read this folder. A test that writes into a run works on a copy.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers

    def trained(recipe: str, *flags: str) -> Path:
        from quiesce.recipes.reading import read_recipe
        from quiesce.training.run import run

        asked = hashlib.sha256("\n".join(flags).encode()).hexdigest()
        folder = shared / "trained" / f"{recipe}-{asked[:8]}"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                run(read_recipe(recipe, [*tiny.flags(), *flags, f"--run={folder}"]))
        return folder

    return trained
