"""`quiesce probe RUN`: what the chance of oscillation cost a trained network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from quiesce.after_training.probe import ProbeConfig, probe
from quiesce.cli.arguments import Arguments
from quiesce.cli.show import progress_console
from quiesce.errors import RecipeError
from quiesce.oscillation.tracker import OSCILLATING
from quiesce.run_folder.folder import PROBE
from quiesce.training.display import Display

LEGEND = """\
drawn: each oscillating weight on one of its two codes, by its share of the
steps there; best: of the loss and of the accuracy, each by itself; learned: the
codes that the training loss asks for; all else is held, batch norm re-estimated"""


def main(argv: Sequence[str]) -> int:
    """Probe the run that `argv` names, print the table and leave probe.json there."""
    known, flags = _parser().parse_known_args(argv)
    run, names = Path(known.run).expanduser(), ("samples", "batches", "steps", "draw_seed")
    given = {name.removeprefix("draw_"): getattr(known, name) for name in names}
    try:
        config = ProbeConfig(**given)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    with Display(progress_console()) as display:
        tree = probe(run, config, known.recipe, flags, display)
    console = Console()
    if tree["weights"]:
        console.print(results(tree))
        console.print(LEGEND, style="dim", highlight=False)
    else:
        console.print(
            f"no weight that is free oscillates (frequency above {OSCILLATING}) in {run}: there is "
            "nothing to draw or to learn",
            highlight=False,
            soft_wrap=True,
        )
    if run.is_dir():
        console.print(f"\nall numbers are in {run / PROBE}", highlight=False, soft_wrap=True)
    return 0


def results(tree: dict[str, Any]) -> Table:
    """Return the table of a probe.json."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(f"{tree['weights']} oscillating weights", no_wrap=True)
    for name in ("training loss", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    before, sampled, learned = tree["before"], tree["sampled"], tree["learned"]
    loss, top1 = sampled["loss"], sampled["top1_percent"]
    table.add_row("as they are", *_cells(before["loss"], before["top1_percent"]))
    table.add_row(
        f"drawn, {tree['samples']} times: mean ± std",
        f"{loss['mean']:.4f} ± {loss['std']:.4f}",
        f"{top1['mean']:.2f} ± {top1['std']:.2f}",
    )
    table.add_row("drawn: best", *_cells(loss["best"], top1["best"]))
    table.add_row(
        f"learned, {learned['changed']} codes changed",
        *_cells(learned["loss"], learned["top1_percent"]),
    )
    return table


def _cells(loss: float, top1: float) -> tuple[str, str]:
    return f"{loss:.4f}", f"{top1:.2f}"


def _parser() -> Arguments:
    parser = Arguments(
        prog="quiesce probe",
        usage="%(prog)s RUN [--samples N] [--steps N] [--batches N] [--recipe RECIPE] "
        "[--field.name VALUE ...]",
        description="Take the weights of a run that oscillate and their two codes: draw other "
        "networks from them, and learn which codes the training loss asks for. The network of the "
        "run stays as it is; a run folder gets probe.json.",
    )
    default = ProbeConfig()
    parser.add_argument("run", metavar="RUN", help="folder of `quiesce train`, or a checkpoint")
    parser.add_argument("--recipe", help="name or file of the recipe of a checkpoint")
    for name, text in (
        ("samples", "networks to draw"),
        ("batches", "training batches that loss is measured on and codes are learned from"),
        ("steps", "optimizer steps in which codes are learned"),
    ):
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} ({value})")
    parser.add_argument("--draw_seed", type=int, default=default.seed, help="seed of the draws (0)")
    return parser
