"""`quiesce targets`: list the runtimes to export for, what each takes, and what is installed."""

from collections.abc import Sequence
from typing import Any

import torch

from quiesce.after_training.restored import untrained
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.export.interface import example_of
from quiesce.export.targets.catalog import TARGETS, target_named
from quiesce.export.targets.target import Network, Target
from quiesce.quantization.calibrate import calibrate
from quiesce.recipes.reading import read_recipe

REFUSED = 1


def parser() -> Arguments:
    """Return the parser of `quiesce targets`."""
    made = Arguments(
        prog="quiesce targets",
        usage="%(prog)s [--check RECIPE] [--target NAME] [--json] [--trust] "
        "[--field.name VALUE ...]",
        description="List the runtimes and tools to export for: what each takes, whether it is "
        "installed, and what installs it. With --check, say which of them take the network of a "
        "recipe, before it is trained.",
    )
    made.add_argument(
        "--check",
        metavar="RECIPE",
        help="name or file of a recipe; flags override its fields",
    )
    made.add_argument(
        "--target",
        metavar="NAME",
        help="only this target; with --check, the exit code is 1 if it does not take the network",
    )
    made.add_trust()
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """List the targets; return 1 if the asked target does not take the network of a recipe."""
    known, flags = parser().parse_with_recipe_flags(argv)
    targets = [target_named(name) for name in ([known.target] if known.target else TARGETS)]
    if known.check is None:
        if flags:
            parser().parse_args(argv)  # names the flag that only a recipe has
        found = [dict(each.facts()) for each in targets]
    else:
        network = _untrained(known.check, flags)
        found = [dict(each.facts(), **_checked(each, network)) for each in targets]
    if known.json:
        print_json({"targets": found})
    else:
        for target, facts in zip(targets, found, strict=True):
            _show(target, facts, checked=known.check is not None)
    refused = known.target is not None and any(each.get("refusals") for each in found)
    return REFUSED if refused else 0


def _untrained(recipe: str, flags: Sequence[str]) -> Network:
    """Return the network of a recipe with random weights, calibrated on noise."""
    data, network = untrained(read_recipe(recipe, flags))
    noise = torch.rand(2, *data.input_shape, generator=torch.Generator().manual_seed(0))
    calibrate(network, [noise])
    return Network(network.eval(), example_of(network, noise))


def _checked(target: Target, network: Network) -> dict[str, Any]:
    refusals = target.check(network)
    return {
        "refusals": [
            {"layer": each.layer, "problem": each.problem, "instead": each.instead}
            for each in refusals
        ]
    }


def _show(target: Target, facts: dict[str, Any], *, checked: bool) -> None:
    versions = {name: version for name, version in facts["packages"].items() if version}
    there = ", ".join(f"{name} {version}" for name, version in versions.items()) or "nothing"
    print(f"{target.name}: {target.what}")
    if checked:
        refusals = facts["refusals"]
        print("  takes the network" if not refusals else "  does not take the network:")
        for each in refusals:
            print(f"    {each['layer']}: {each['problem']}; {each['instead']}")
        return
    tested = ", ".join(f"{name} {version}" for name, version in facts["tested"].items())
    print(f"  takes      {target.takes}")
    print(f"  tested     {tested}")
    if target.missing:
        print(f"  missing    {', '.join(target.missing)}: {target.install}")
    else:
        print(f"  installed  {there}")
    for text in target.untested:
        print(f"  warning    {text}")
