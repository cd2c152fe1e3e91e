"""`quiesce train RECIPE`: a whole run."""

import sys
from collections.abc import Sequence

from quiesce.errors import RecipeError
from quiesce.training.reading import read_recipe, recipe_parser, write_recipe

USAGE = "quiesce train RECIPE [--print_config] [--field.name VALUE ...]"


def main(argv: Sequence[str]) -> int:
    """Train by the recipe that `argv` names first, overridden by the flags behind it."""
    if not argv or {"-h", "--help"} & set(argv):
        recipe_parser(usage=USAGE).print_help()
        return 0
    name, *flags = argv
    if name.startswith("-"):
        raise RecipeError(f"the recipe comes first: {USAGE}")
    only_print = "--print_config" in flags
    recipe = read_recipe(name, [flag for flag in flags if flag != "--print_config"])
    if only_print:
        sys.stdout.write(write_recipe(recipe))
        return 0

    from quiesce.cli.show import progress_console, show_runs  # these bring in Lightning
    from quiesce.training.display import Display
    from quiesce.training.run import is_first_process, run

    with Display(progress_console()) as display:
        summary = run(recipe, display)
    if is_first_process():
        show_runs({recipe.name: summary}, recipe.folder)
        print(f"quiesce diagnose {recipe.folder} shows each layer")
    return 0
