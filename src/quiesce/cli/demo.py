"""`quiesce demo`: real digits at 3 bits, trained three ways from the same float network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quiesce.after_training.ship import ship
from quiesce.cli.arguments import Arguments
from quiesce.cli.show import progress_console, show_runs
from quiesce.cli.show_verification import show_shipped
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.recipes.sections import FloatStageConfig
from quiesce.run_folder.folder import FLOAT_NETWORK, write_json
from quiesce.training.display import Display
from quiesce.training.run import run

EXPORTED = "model.onnx"
SHIPPED = "shipped.json"
METHODS = {"LSQ": "lsq", "dampening": "dampen", "freezing": "freeze"}


def parser() -> Arguments:
    """Return the parser of `quiesce demo`."""
    made = Arguments(
        prog="quiesce demo",
        description="Train a small depth-wise separable network on 5,000 digits: in float, then at "
        "3 bits with plain LSQ, with oscillation dampening, and with weight freezing.",
    )
    made.add_argument(
        "--run", type=Path, help="folder to create (default: runs/demo, or demo-2 ...)"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of all networks (default: 0)")
    return made


def main(argv: Sequence[str]) -> int:
    """Train the three networks and print the table that compares them."""
    known = parser().parse_args(argv)
    folder = known.run or _free(Path("runs", "demo"))
    summaries: dict[str, dict[str, Any]] = {}
    with Display(progress_console()) as display:
        for recipe, title in zip(recipes(folder, known.seed), METHODS, strict=True):
            summaries[title] = run(recipe, display)
    show_runs(summaries, folder)
    last = list(METHODS.values())[-1]
    shipped = ship(folder / last, folder / last / EXPORTED)
    write_json(folder / last / SHIPPED, shipped.tree())
    show_shipped(shipped)
    return 0


def recipes(folder: Path, seed: int) -> list[Recipe]:
    """Return the three recipes; the first trains the float network, the others start from it."""
    made = [
        read_recipe(f"mnist_{kind}_w3a3", ["--seed", str(seed), "--run", str(folder / kind)])
        for kind in METHODS.values()
    ]
    first, *others = made
    weights = str(first.folder / FLOAT_NETWORK)
    return [
        first,
        *(
            replace(
                other, float_stage=FloatStageConfig(), model=replace(other.model, weights=weights)
            )
            for other in others
        ),
    ]


def _free(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3 ... that is not there."""
    names = (folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000)))
    return next(name for name in names if not name.exists())
