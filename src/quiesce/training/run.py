"""A whole run: from a recipe to a folder with the trained network and what was measured.

Nothing is made on disk before everything that can be checked has been checked.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from quiesce.files.atomic import remove_leftovers
from quiesce.recipes.reading import read_recipe, write_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.folder import (
    RECIPE,
    SUMMARY,
    explained,
    locked,
    read_json,
    refuse_existing,
    run_folder,
    write_text,
)
from quiesce.training.display import Display
from quiesce.training.recording.summary import VERSION
from quiesce.training.resuming.found_checkpoint import (
    find_checkpoint,
    recipe_of,
    refuse_other_recipe,
)
from quiesce.training.stages import Job, is_first_process


def run(recipe: Recipe, display: Display | None = None) -> dict[str, Any]:
    """Train, measure and save a quantized network.

    Seeds the global generators of python, numpy and torch.

    Args:
        recipe: Everything that decides the run.
        display: Where progress is drawn, entered by the caller; None draws nothing.

    Returns:
        The content of summary.json; `recipe.folder` holds the rest.

    Raises:
        QuiesceError: Something that the message tells how to mend. A folder is left behind only
            when it holds a checkpoint.
    """
    if is_first_process():
        refuse_existing(recipe.folder)
    job = Job(recipe, display or Display())
    job.load()
    with run_folder(recipe.folder, owner=is_first_process()) as folder:
        if is_first_process():
            write_text(folder / RECIPE, write_recipe(recipe))
        return job.run(folder)


def resume(folder: Path, display: Display | None = None) -> dict[str, Any]:
    """Go on with a run that was cut off, to the bits that it would have come to.

    Args:
        folder: What the run has left.
        display: As in `run`; it also says from which checkpoint the run goes on, and why.

    Returns:
        The content of summary.json.

    Raises:
        QuiesceError: The folder is of no run, of a finished one, or another process trains in it;
            no checkpoint is sound; or what `run` raises.
    """
    display = display or Display()
    recipe = recipe_of(folder)
    with locked(folder) if is_first_process() else nullcontext():
        if is_first_process():
            remove_leftovers(folder)
        job = Job(recipe, display, find_checkpoint(folder, display.tell))
        with explained(folder):
            job.load()
            return job.run(folder)


def run_or_resume(recipe: Recipe, display: Display | None = None) -> dict[str, Any]:
    """Train by a recipe, from where its folder was left off: for whatever starts processes again.

    Args:
        recipe: As in `run`; that of a run that has begun must say the same.
        display: As in `resume`.

    Returns:
        The content of summary.json; at once, where the run is finished.

    Raises:
        QuiesceError: The run in the folder has another recipe; or what `run` and `resume` raise.
    """
    folder = recipe.folder
    if not (folder / RECIPE).is_file():
        return run(recipe, display)
    refuse_other_recipe(recipe, read_recipe(str(folder / RECIPE)))
    if (folder / SUMMARY).is_file():
        return read_json(folder / SUMMARY, VERSION)
    return resume(folder, display)
