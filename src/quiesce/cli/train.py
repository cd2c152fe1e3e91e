"""`quiesce train RECIPE`: a whole run; `quiesce train --resume RUN`: the rest of one.

`quiesce train RECIPE --resume` is one or the other, as its folder tells.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiesce.errors import RecipeError
from quiesce.recipes.reading import read_recipe, recipe_parser, write_recipe

if TYPE_CHECKING:
    from quiesce.training.display import Display

USAGE = (
    "quiesce train RECIPE [--resume] [--print_config] [--field.name VALUE ...]\n"
    "       quiesce train --resume RUN"
)
RESUME = "--resume"
PRINT = "--print_config"


def main(argv: Sequence[str]) -> int:
    """Train by the recipe that `argv` names first, overridden by the flags behind it."""
    if {"-h", "--help"} & set(argv):
        recipe_parser(usage=USAGE).print_help()
        return 0
    if not argv:
        raise RecipeError("name a recipe: quiesce train RECIPE; `quiesce recipes` lists them")
    name, *flags = argv
    if name.startswith(RESUME):
        return _resume(argv)
    if name.startswith("-"):
        raise RecipeError(f"the recipe comes first: {USAGE.splitlines()[0]}")
    _refuse_folder_behind(flags)
    recipe = read_recipe(name, [flag for flag in flags if flag not in (PRINT, RESUME)])
    if PRINT in flags:
        sys.stdout.write(write_recipe(recipe))
        return 0

    from quiesce.training.run import run, run_or_resume  # this brings in Lightning

    train = run_or_resume if RESUME in flags else run
    _show(lambda display: train(recipe, display), recipe.folder)
    return 0


def _refuse_folder_behind(flags: Sequence[str]) -> None:
    behind = dict(pairwise(flags)).get(RESUME, "--")
    if not behind.startswith("--") or any(flag.startswith(f"{RESUME}=") for flag in flags):
        raise RecipeError(
            f"{RESUME} behind a recipe takes no folder: quiesce train RECIPE {RESUME} --run RUN, "
            f"or quiesce train {RESUME} RUN"
        )


def _resume(argv: Sequence[str]) -> int:
    flag, equals, value = argv[0].partition("=")
    folder = [value, *argv[1:]] if equals else argv[1:]
    if flag != RESUME or len(folder) != 1:
        raise RecipeError(
            f"{RESUME} takes the folder of a run and nothing else: its recipe is in the folder"
        )

    from quiesce.training.run import resume

    run = Path(folder[0]).expanduser()
    _show(lambda display: resume(run, display), run)
    return 0


def _show(train: Callable[["Display"], dict[str, Any]], folder: Path) -> None:
    from quiesce.cli.show import progress_console, show_runs
    from quiesce.training.display import Display
    from quiesce.training.stages import is_first_process

    with Display(progress_console()) as display:
        summary = train(display)
    if is_first_process():
        show_runs({summary["name"]: summary}, folder)
        print(f"quiesce diagnose {folder} shows each layer")
