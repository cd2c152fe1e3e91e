"""`quiesce train RECIPE` trains; `quiesce train --resume RUN` continues a run.

`quiesce train RECIPE --resume` continues the run if its folder exists, and starts it otherwise.
"""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiesce.errors import RecipeError
from quiesce.recipes.catalog import shipped_recipes
from quiesce.recipes.reading import read_recipe, recipe_parser, write_recipe
from quiesce.user_code import TRUST

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from quiesce.training.display import Display

USAGE = (
    "quiesce train RECIPE [--resume] [--print_config] [--field.name VALUE ...]\n"
    "       quiesce train --resume RUN [--trust]"
)
RESUME = "--resume"
PRINT = "--print_config"


def parser() -> "ArgumentParser":
    """Return a parser with all flags of `quiesce train`, for its help and for completion."""
    made = recipe_parser(usage=USAGE)
    made.description = (
        "Train a quantized network from a recipe: a name that `quiesce recipes` lists, or a YAML "
        "file. Flags override fields of the recipe."
    )
    names = shipped_recipes()  # completed by the shell; `main` also accepts a file
    made.add_argument("recipe", metavar="RECIPE", choices=names, help="name or file of a recipe")
    made.add_argument(RESUME, action="store_true", help="continue the run if its folder exists")
    made.add_argument(
        TRUST, action="store_true", help="with RUN: import the modules of yours that it names"
    )
    made.add_argument(PRINT, action="store_true", help="print all fields of the recipe and stop")
    return made


def main(argv: Sequence[str]) -> int:
    """Train the recipe that is first in `argv`, with the flags after it."""
    if {"-h", "--help"} & set(argv):
        parser().print_help()
        return 0
    if not argv:
        raise RecipeError("give a recipe: quiesce train RECIPE; `quiesce recipes` lists them")
    name, *flags = argv
    if name.startswith(RESUME):
        return _resume(argv)
    if name.startswith("-"):
        raise RecipeError(f"the recipe comes first: {USAGE.splitlines()[0]}")
    _refuse_folder(flags)
    _refuse_network(name)
    recipe = read_recipe(name, [flag for flag in flags if flag not in (PRINT, RESUME)])
    if PRINT in flags:
        sys.stdout.write(write_recipe(recipe))
        return 0

    from quiesce.training.run import run, run_or_resume  # imports Lightning

    train = run_or_resume if RESUME in flags else run
    _show(lambda display: train(recipe, display), recipe.folder, trust=bool(recipe.user_code))
    return 0


def _refuse_network(name: str) -> None:
    """Raise a RecipeError for the name of a timm network, which is a `model.name` and no recipe."""
    known = name in shipped_recipes() or Path(name).exists()
    if known or not name.isidentifier() or find_spec("timm") is None:
        return

    import timm

    if timm.is_model(name):
        near = get_close_matches(name, shipped_recipes(), n=1, cutoff=0.3) or ["RECIPE"]
        raise RecipeError(
            f"{name} is a network, not a recipe; to train it, give a recipe too: "
            f"quiesce train {near[0]} --model.name {name}"
        )


def _refuse_folder(flags: Sequence[str]) -> None:
    behind = dict(pairwise(flags)).get(RESUME, "--")
    if not behind.startswith("--") or any(flag.startswith(f"{RESUME}=") for flag in flags):
        raise RecipeError(
            f"{RESUME} after a recipe takes no folder: use quiesce train RECIPE {RESUME} --run RUN "
            f"or quiesce train {RESUME} RUN"
        )


def _resume(argv: Sequence[str]) -> int:
    flag, equals, value = argv[0].partition("=")
    folder = [each for each in ([value] if equals else []) + list(argv[1:]) if each != TRUST]
    if flag != RESUME or len(folder) != 1:
        raise RecipeError(
            f"{RESUME} takes the folder of a run and nothing else but {TRUST}; the recipe is in "
            "that folder"
        )

    from quiesce.training.run import resume

    run = Path(folder[0]).expanduser()
    trust = TRUST in argv
    _show(lambda display: resume(run, display, flags=[TRUST] if trust else []), run, trust=trust)
    return 0


def _show(
    train: Callable[["Display"], dict[str, Any]], folder: Path, *, trust: bool = False
) -> None:
    from quiesce.cli.show import show_runs
    from quiesce.training.display import Display, progress_console
    from quiesce.training.stages import is_first_process

    with Display(progress_console()) as display:
        summary = train(display)
    if is_first_process():
        show_runs({summary["name"]: summary}, folder)
        print(f"`quiesce diagnose {folder}{f' {TRUST}' if trust else ''}` shows each layer")
