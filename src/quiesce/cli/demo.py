"""`quiesce demo`: digits at 3 bits and a constant learning rate, with and without cures."""

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from quiesce.after_training.ship import ship
from quiesce.cli.arguments import Arguments
from quiesce.cli.show import show_runs
from quiesce.cli.show_verification import show_shipped
from quiesce.errors import QuiesceError
from quiesce.run_folder.contents import Summary
from quiesce.run_folder.folder import SHIPPED_NUMBERS, SUMMARY, write_json
from quiesce.run_folder.reading import read_json
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.plan import PlannedRun, plan
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.status import read_status
from quiesce.sweeps.sweep import SHIPPED, read_sweep
from quiesce.sweeps.task import Task

EXPORTED = "model.onnx"
TITLES = {"lsq": "LSQ", "dampening": "dampening", "freezing": "freezing"}

FIRST_STEPS = 20
"""Steps of the float network after which the demo estimates its duration."""

START_S = 60.0
"""Seconds to start the quantized runs, compile their kernels, measure and export."""

RATIO = 3.0
"""Approximate ratio of the time of a quantized step to that of a float step, with one thread."""


def parser() -> Arguments:
    """Return the parser of `quiesce demo`."""
    made = Arguments(
        prog="quiesce demo",
        description="Train a small depth-wise separable network on 5,000 digits: in float, then at "
        "3 bits with plain LSQ, with oscillation dampening, and with weight freezing. The learning "
        "rate is constant; with such a rate oscillation can cost accuracy.",
    )
    made.add_argument(
        "--run", type=Path, help="folder to create (default: runs/demo, or demo-2 ...)"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of all networks (default: 0)")
    return made


def main(argv: Sequence[str]) -> int:
    """Train the networks in parallel, one thread each, and print the table that compares them."""
    known = parser().parse_args(argv)
    folder = (known.run or _free(Path("runs", "demo"))).expanduser()
    runs = planned(known.seed)
    failed: dict[str, str] = {}
    console = Console(stderr=True)
    over = threading.Event()
    watching = threading.Thread(target=_say_how_long, args=(folder, runs, console, over))

    def tell(task: Task, why: str) -> None:
        if why:
            failed[task.name] = why
        elif not task.only_float:
            _say_row(console, folder / task.name)

    sweep = replace(read_sweep(SHIPPED / "demo.yaml"), seeds=(known.seed,))
    watching.start()
    try:
        run_sweep(sweep, runs, folder, engine=LocalEngine(len(runs)), tell=tell)
    finally:
        over.set()
        watching.join()
    if failed:
        name, why = next(iter(failed.items()))
        raise QuiesceError(f"{name} failed: {why}")
    summaries = {TITLES[run.variant or ""]: _summary(folder / run.name) for run in runs}
    show_runs(summaries, folder)
    last = folder / runs[-1].name
    shipped = ship(last, last / EXPORTED).tree()
    write_json(last / SHIPPED_NUMBERS, shipped)
    print(verdict(summaries, shipped["images"]))
    show_shipped(last / EXPORTED, shipped)
    return 0


def planned(seed: int) -> list[PlannedRun]:
    """Return the runs of the demo; all start from one float network."""
    return plan(replace(read_sweep(SHIPPED / "demo.yaml"), seeds=(seed,)))


def verdict(summaries: dict[str, dict[str, Any]], images: int) -> str:
    """Describe in one line the accuracy lost to oscillation, if any.

    A gain counts if it is above the 95 % bound of the difference of two independent shares of
    `images`, by the normal approximation.

    Args:
        summaries: Title to the content of summary.json; plain LSQ is among them.
        images: Number of test images.
    """
    loss = {title: summary["train_loss"] for title, summary in summaries.items()}
    top1 = {title: summary["top1_percent"]["trained"] for title, summary in summaries.items()}
    plain = TITLES["lsq"]
    best = max((title for title in summaries if title != plain), key=lambda title: top1[title])
    numbers = (
        f"{top1[plain]:.1f} % with plain LSQ, {top1[best]:.1f} % with {best}; training loss "
        f"{loss[plain]:.3f} and {loss[best]:.3f}"
    )
    gain = (top1[best] - top1[plain]) / 100
    if gain <= 0:
        return f"Oscillation cost no accuracy with this seed: {numbers}."
    shares = (top1[best] / 100, top1[plain] / 100)
    if gain > 1.96 * math.sqrt(sum(share * (1 - share) for share in shares) / images):
        return f"Oscillation costs accuracy here: {numbers}."
    return (
        f"{images:,} test images are too few to tell whether oscillation costs accuracy: {numbers}."
    )


def _summary(run: Path) -> dict[str, Any]:
    return read_json(run / SUMMARY, Summary).tree()


def _say_row(console: Console, run: Path) -> None:
    top1 = _summary(run)["top1_percent"]
    console.print(f"{run.name}: top-1 {top1['trained']:.1f}", markup=False, highlight=False)


def _say_how_long(
    folder: Path, runs: Sequence[PlannedRun], console: Console, over: threading.Event
) -> None:
    """Print once the expected duration of the demo, from the first steps of the float network."""
    first: tuple[int, float] | None = None  # a step, and when it was done
    while not over.wait(0.2):
        try:
            floats = read_status(folder).floats
        except QuiesceError:  # the sweep has not written its list of runs yet
            continue
        for task in floats:
            if not task.step or not task.steps:
                continue
            if first is None:
                first = task.step, time.monotonic()
            if task.step >= first[0] + FIRST_STEPS:
                step_s = (time.monotonic() - first[1]) / (task.step - first[0])
                quantized = sum(_steps(run, task.steps) for run in runs)
                cores = min(len(runs), os.cpu_count() or 1)
                left_s = step_s * (task.steps - task.step + RATIO * quantized / cores)
                minutes = max(1, round((left_s + START_S) / 60))
                text = f"training {len(runs) + 1} networks: about {minutes} minutes on this machine"
                console.print(text, markup=False, highlight=False)
                return


def _steps(run: PlannedRun, float_steps: int) -> float:
    """Return the number of steps of a run, from those of its float network."""
    recipe = run.recipe
    return float_steps * (recipe.trainer.max_epochs or 1) / (recipe.float_stage.epochs or 1)


def _free(folder: Path) -> Path:
    """Return `folder`, or the first of folder-2, folder-3 ... that does not exist."""
    names = (folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000)))
    return next(name for name in names if not name.exists())
