"""`quiesce probe RUN`: measure the loss caused by the final codes of oscillating weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quiesce.after_training.probe import ProbeConfig, probe
from quiesce.cli.arguments import Arguments
from quiesce.cli.json_output import print_json
from quiesce.cli.show import make_table
from quiesce.errors import RecipeError
from quiesce.oscillation.steps_needed import steps_needed
from quiesce.oscillation.tracker import OSCILLATING
from quiesce.run_folder.folder import PROBE
from quiesce.training.display import Display, progress_console

LEGEND = """\
sampled: each oscillating weight takes one of its two codes at random, as often
as it had that code in training; best: lowest loss and highest accuracy, which
may come from different samples; learned: codes that minimize the training loss.
Everything else stays the same, and batch norm is re-estimated."""


def main(argv: Sequence[str]) -> int:
    """Probe the run in `argv`, print the table and write probe.json."""
    known, flags = parser().parse_with_recipe_flags(argv)
    run, names = Path(known.run).expanduser(), ("samples", "batches", "steps", "draw_seed")
    given = {name.removeprefix("draw_"): getattr(known, name) for name in names}
    try:
        config = ProbeConfig(**given)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    with Display(progress_console()) as display:
        tree = probe(run, config, known.recipe, flags, display)
    if known.json:
        print_json(tree)
        return 0
    console = Console()
    if tree["weights"]:
        console.print(results(tree))
        console.print(LEGEND, style="dim", highlight=False)
    else:
        console.print(nothing_to_probe(tree, run), highlight=False, soft_wrap=True)
    if run.is_dir():
        console.print(f"\nall numbers are in {run / PROBE}", highlight=False, soft_wrap=True)
    return 0


def nothing_to_probe(tree: dict[str, Any], run: Path) -> str:
    """Return the reason why probe.json has no results."""
    step, needed = tree["step"], steps_needed(tree["momentum"])
    if step < needed:
        return (
            f"{run} has too few steps to tell whether weights oscillate: {step} of {needed} "
            "(3 / momentum); there is nothing to probe yet"
        )
    return (
        f"no weight of {run} oscillates (frequency above {OSCILLATING}), except frozen ones: "
        "there is nothing to probe"
    )


def results(tree: dict[str, Any]) -> Table:
    """Return the table of probe.json."""
    table = make_table(f"{tree['weights']} oscillating weights", "training loss", "top-1")
    before, sampled, learned = tree["before"], tree["sampled"], tree["learned"]
    loss, top1 = sampled["loss"], sampled["top1_percent"]
    table.add_row("as trained", *_cells(before["loss"], before["top1_percent"]))
    table.add_row(
        f"{tree['samples']} samples: mean ± std",
        f"{loss['mean']:.4f} ± {loss['std']:.4f}",
        f"{top1['mean']:.2f} ± {top1['std']:.2f}",
    )
    table.add_row("samples: best", *_cells(loss["best"], top1["best"]))
    table.add_row(
        f"learned, {learned['changed']} codes changed",
        *_cells(learned["loss"], learned["top1_percent"]),
    )
    return table


def _cells(loss: float, top1: float) -> tuple[str, str]:
    return f"{loss:.4f}", f"{top1:.2f}"


def parser() -> Arguments:
    """Return the parser of `quiesce probe`."""
    made = Arguments(
        prog="quiesce probe",
        usage="%(prog)s RUN [--json] [--samples N] [--steps N] [--batches N] [--draw_seed N] "
        "[--trust] [--recipe RECIPE] [--field.name VALUE ...]",
        description="An oscillating weight ends training on one of two codes by chance. Sample "
        "other networks from these codes, and learn the codes that minimize the training loss. The "
        "numbers are also written to probe.json in the run folder; the network does not change.",
    )
    default = ProbeConfig()
    made.add_argument("run", metavar="RUN", help="folder of `quiesce train`, or a checkpoint")
    made.add_argument("--recipe", help="recipe of the checkpoint: a name or a file")
    for name, text in (
        ("samples", "networks to sample"),
        ("batches", "training batches that measure the loss and learn the codes"),
        ("steps", "optimizer steps that learn the codes"),
    ):
        value = getattr(default, name)
        made.add_argument(
            f"--{name}", type=int, default=value, metavar="N", help=f"{text} (default: {value})"
        )
    made.add_argument(
        "--draw_seed",
        type=int,
        default=default.seed,
        metavar="N",
        help=f"seed of the samples (default: {default.seed})",
    )
    made.add_trust()
    made.add_json()
    return made
