"""`quiesce recipes`: what comes with quiesce."""

from collections.abc import Sequence

from quiesce.cli.arguments import Arguments
from quiesce.recipes.reading import SHIPPED, shipped_recipes, title_of


def main(argv: Sequence[str]) -> int:
    """List the shipped recipes, each with the first comment of its file."""
    parser = Arguments(
        prog="quiesce recipes", description="List the recipes that come with quiesce."
    )
    parser.parse_args(argv)
    names = shipped_recipes()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {title_of(SHIPPED / f'{name}.yaml')}")
    print(
        "\nquiesce train NAME runs one; quiesce train NAME --print_config shows all its fields.\n"
        "quiesce sweep --list shows the grids of them that come with quiesce."
    )
    return 0
