"""`quiesce sweep RECIPE`: train a grid of recipes and seeds."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quiesce.cli.arguments import Arguments
from quiesce.cli.compare import show_comparison
from quiesce.comparison.compare import compare
from quiesce.errors import RecipeError
from quiesce.recipes.catalog import title_of
from quiesce.recipes.reading import read_recipe
from quiesce.sweeps.plan import PlannedRun, plan
from quiesce.sweeps.processes import State, Task
from quiesce.sweeps.run_sweep import Outcome, run_sweep
from quiesce.sweeps.sweep import (
    SHIPPED,
    Sweep,
    find_sweep,
    parse_seeds,
    parse_settings,
    read_sweep,
    shipped_sweeps,
)
from quiesce.sweeps.sweep_folder import SweepFolder

SOME_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Run the sweep that `argv` describes, and compare its runs."""
    known, flags = parser().parse_known_args(argv)
    if known.list:
        _list()
        return 0
    if known.sweep is None:
        raise RecipeError("give a recipe or a sweep; `quiesce sweep --list` lists the sweeps")
    if known.jobs < 1 or (known.at_most is not None and known.at_most < 1):
        raise RecipeError("--jobs and --at-most must be 1 or more")
    sweep = _sweep(known.sweep, known.seeds, known.set, flags)
    runs = plan(sweep, flags)
    folder = (known.output or Path("runs", sweep.name)).expanduser()
    if known.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    done = sum(SweepFolder(folder).is_finished(run) for run in runs)
    with SweepProgress(runs, done, Console(stderr=True)) as progress:
        try:
            outcome = run_sweep(
                sweep, runs, folder, jobs=known.jobs, at_most=known.at_most, tell=progress.tell
            )
        except KeyboardInterrupt as stop:
            stop.args = (f"stopped; the same command continues in {folder}",)
            raise
    return _tell(outcome, folder)


def parser() -> Arguments:
    """Return the parser of `quiesce sweep`."""
    made = Arguments(
        prog="quiesce sweep",
        usage="%(prog)s RECIPE [--seeds N] [--set field=a,b,c] ... [--field.name VALUE ...]",
        description="Train every combination of values of some fields, with every seed. Runs that "
        "are finished in the folder are skipped, and interrupted runs continue. Other flags "
        "override the recipe. At the end, print the table of `quiesce compare`.",
    )
    made.add_argument(
        "sweep", metavar="RECIPE", nargs="?", help="a recipe or a sweep: a name or a file"
    )
    made.add_argument("--list", action="store_true", help="list the sweeps that come with quiesce")
    made.add_argument(
        "--seeds", metavar="N", help="seeds 0 to N-1, or a list of seeds: 3,7 (default: 1)"
    )
    made.add_argument(
        "--set",
        metavar="FIELD=A,B,C",
        action="append",
        default=[],
        help="values of a field of the recipe, as YAML: cure.strength.end=0.01,0.1; repeatable",
    )
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)"
    )
    made.add_argument(
        "--at-most",
        type=int,
        metavar="N",
        help="do at most N runs now; the same command continues later",
    )
    made.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="default: runs/<name of the sweep>"
    )
    made.add_argument("--dry-run", action="store_true", help="check all recipes and list the runs")
    return made


def _sweep(name: str, seeds: str | None, settings: list[str], flags: list[str]) -> Sweep:
    if path := find_sweep(name):
        sweep = read_sweep(path)
    else:
        sweep = Sweep(name=f"{read_recipe(name, flags).name}-sweep", recipe=name)
    try:
        if seeds is not None:
            sweep = replace(sweep, seeds=parse_seeds(seeds))
        return replace(sweep, grid={**sweep.grid, **parse_settings(settings)})
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _list() -> None:
    names = shipped_sweeps()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {title_of(SHIPPED / f'{name}.yaml')}")
    print("\nquiesce sweep NAME runs one; quiesce sweep NAME --dry-run lists its runs.")


def _tell(outcome: Outcome, folder: Path) -> int:
    if outcome.finished:
        show_comparison(compare([folder], mixed_data=True))
    print(f"\n{outcome.finished} of {outcome.total} runs are finished in {folder}")
    for name, why in outcome.failed.items():
        print(f"quiesce: {name} failed: {why}", file=sys.stderr)
    return SOME_FAILED if outcome.failed else 0


class SweepProgress:
    """Shows the number of finished runs and the running ones in one line; a context manager.

    Args:
        runs: All runs of the sweep.
        done: Number of runs that are already finished.
        console: Where to show it; without a terminal, a plain line when a run ends.
    """

    def __init__(self, runs: Sequence[PlannedRun], done: int, console: Console) -> None:
        self._names = {run.name for run in runs}
        self._console = console
        self._at_work: list[str] = []
        self._line = Progress(
            TextColumn("sweep"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._line.add_task("sweep", total=len(runs), completed=done, note="")

    def __enter__(self) -> "SweepProgress":
        self._line.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._line.stop()

    def tell(self, task: Task, state: State, why: str) -> None:
        """Show a new state of a task."""
        if state == "started":
            self._at_work.append(task.name)
        elif task.name in self._at_work:
            self._at_work.remove(task.name)
        ended = state != "started" and task.name in self._names
        self._line.update(self._task, advance=int(ended), note=", ".join(self._at_work))
        if state != "started" and (why or not self._console.is_terminal):
            text = f"{task.name}: {state}{': ' if why else ''}{why}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
