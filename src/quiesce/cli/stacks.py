"""`quiesce stacks`: list the toolkits whose networks `quiesce.attach` follows."""

import dataclasses
from collections.abc import Sequence

from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.cli.listing import listing
from quiesce.stacks.catalog import STACKS, Stack
from quiesce.text_table import table

HIDDEN = ("classes", "file")
"""Fields of a stack that only quiesce needs."""
FOOT = """
The conversion keeps all codes of training after `before_convert`; quiesce.audit
shows it. docs/how-to/attach.md has a program for each toolkit, and shows how to
attach to others with quiesce.Adapter."""


def parser() -> Arguments:
    """Return the parser of `quiesce stacks`."""
    made = Arguments(
        prog="quiesce stacks",
        description="List the quantization toolkits whose networks quiesce.attach follows, the "
        "versions that are tested, and what works with each.",
    )
    made.add_json()
    return made


def main(argv: Sequence[str]) -> int:
    """Print a table, and which weights are followed."""
    known = parser().parse_args(argv)
    if known.json:
        print_json({"stacks": [_tree(stack) for stack in STACKS]})
        return 0
    head = ("toolkit", "tested with", "compile", "DDP", "FSDP2", "conversion")
    print(table([head, *(_row(stack) for stack in STACKS)]))
    print(f"\ninstalled here: {_installed()}\n\nweights that are followed:")
    print(listing({stack.name: stack.weights for stack in STACKS}, indent="  "))
    print(FOOT)
    return 0


def _row(stack: Stack) -> tuple[str, ...]:
    works = stack.compile, stack.ddp, stack.fsdp2, stack.conversion
    return stack.name, f"{stack.package} {stack.tested[0]}", *works


def _installed() -> str:
    found = {
        f"{stack.package} {stack.installed}" + ("" if stack.is_tested else " (not tested)"): None
        for stack in STACKS
        if stack.installed
    }
    return ", ".join(found) or "none of them"


def _tree(stack: Stack) -> dict[str, object]:
    fields = {k: v for k, v in dataclasses.asdict(stack).items() if k not in HIDDEN}
    return {**fields, "installed": stack.installed, "is_tested": stack.is_tested}
