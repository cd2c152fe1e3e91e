"""`quiesce recipes`: list the recipes that quiesce includes."""

from collections.abc import Sequence

from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.cli.listing import listing
from quiesce.recipes.catalog import SHIPPED, shipped_recipes, title_of

FOOT = """
quiesce train NAME                  trains one
quiesce train NAME --print_config   prints all its fields
quiesce sweep --list                lists the sweeps over recipes"""


def parser() -> Arguments:
    """Return the parser of `quiesce recipes`."""
    made = Arguments(prog="quiesce recipes", description="List the recipes that come with quiesce.")
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """List the shipped recipes, each with the first comment of its file."""
    known = parser().parse_args(argv)
    titles = {name: title_of(SHIPPED / f"{name}.yaml") for name in shipped_recipes()}
    if known.json:
        print_json({"recipes": [{"name": k, "description": v} for k, v in titles.items()]})
    else:
        print(listing(titles))
        print(FOOT)
    return 0
