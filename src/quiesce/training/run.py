"""Runs a recipe and writes a folder with the trained network and its measurements.

All checks that are possible in advance run before anything is written to disk.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from quiesce.files.atomic import remove_leftovers
from quiesce.recipes.reading import read_recipe, write_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.contents import Summary
from quiesce.run_folder.folder import (
    RECIPE,
    SUMMARY,
    explained,
    locked,
    refuse_existing,
    run_folder,
    write_text,
)
from quiesce.run_folder.reading import read_json
from quiesce.training.display import Display
from quiesce.training.epoch_checks import odd_epochs
from quiesce.training.job import load
from quiesce.training.resuming.found_checkpoint import (
    find_checkpoint,
    recipe_of,
    refuse_other_recipe,
)
from quiesce.training.stages import run_stages
from quiesce.training.trainer import is_first_process
from quiesce.user_code import TRUST


def run(recipe: Recipe, display: Display | None = None) -> dict[str, Any]:
    """Train, measure and save a quantized network.

    Seeds the global generators of python, numpy and torch.

    Args:
        recipe: The recipe of the run.
        display: Shows the progress; the caller enters its context. None shows nothing.

    Returns:
        The content of summary.json; `recipe.folder` holds all files.

    Raises:
        QuiesceError: The message states what to change. The folder is kept only if it holds a
            checkpoint.
    """
    if is_first_process():
        refuse_existing(recipe.folder)
    job = load(recipe, display or Display())
    if is_first_process():
        for warning in odd_epochs(recipe, job.data):
            job.display.tell(warning)
    with run_folder(recipe.folder, owner=is_first_process()) as folder:
        if is_first_process():
            write_text(folder / RECIPE, write_recipe(recipe))
        return run_stages(job)


def resume(
    folder: Path, display: Display | None = None, *, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Continue an interrupted run; the result is bit-identical to that of an uninterrupted one.

    Args:
        folder: The run folder.
        display: See `run`. It also shows which checkpoint the run resumes from.
        flags: Flags that override the recipe in the folder, for files that have moved;
            `quiesce.user_code.TRUST` imports the user modules that it refers to.

    Returns:
        The content of summary.json.

    Raises:
        QuiesceError: The folder is not a run folder, the run is finished, another process is
            training in it, or all checkpoints are damaged; also the errors of `run`.
    """
    display = display or Display()
    recipe = recipe_of(folder, flags)
    with locked(folder) if is_first_process() else nullcontext():
        if is_first_process():
            remove_leftovers(folder)
        found = find_checkpoint(folder, display.tell)
        with explained(folder):
            return run_stages(load(recipe, display, found))


def run_or_resume(recipe: Recipe, display: Display | None = None) -> dict[str, Any]:
    """Run a recipe, or resume it if its folder holds a run: for launchers that restart processes.

    Args:
        recipe: See `run`. If the run has begun, its recipe must be the same.
        display: See `resume`.

    Returns:
        The content of summary.json; for a finished run, without training.

    Raises:
        QuiesceError: The run in the folder has another recipe; also the errors of `run` and
            `resume`.
    """
    folder = recipe.folder
    if not (folder / RECIPE).is_file():
        return run(recipe, display)
    refuse_other_recipe(recipe, read_recipe(str(folder / RECIPE), [TRUST]))
    if (folder / SUMMARY).is_file():
        return read_json(folder / SUMMARY, Summary).tree()
    return resume(folder, display, flags=[TRUST])  # the same functions as in `recipe`
