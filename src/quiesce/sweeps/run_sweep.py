"""Runs a whole sweep: continues an earlier call and trains the missing runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from quiesce.errors import EngineError
from quiesce.run_folder.folder import remove_new, topmost_new
from quiesce.sweeps.engines.engine import Engine, Tell
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.mirrored_sweep import fetch_finished, fetch_status, fetch_sweep, put_sweep
from quiesce.sweeps.plan import PlannedRun, float_key
from quiesce.sweeps.sweep import Sweep
from quiesce.sweeps.sweep_folder import SweepFolder
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import read_state

FLOAT = "float"
"""Prefix of the name of a task that trains a shared float network."""


@dataclass(kw_only=True)
class Outcome:
    """The result of a sweep."""

    total: int
    """Number of runs of the sweep."""

    finished: int
    """Number of runs with a summary, including earlier ones."""

    failed: dict[str, str] = field(default_factory=dict)
    """Maps the name of a failed run, or of a float network, to the reason."""


def run_sweep(
    sweep: Sweep,
    runs: Sequence[PlannedRun],
    folder: Path,
    *,
    engine: Engine | None = None,
    mirror: Mirror | None = None,
    at_most: int | None = None,
    tell: Tell = lambda *_: None,
) -> Outcome:
    """Train the runs of a sweep that are not finished.

    Args:
        engine: The engine that trains the runs; None trains one at a time on this machine.
        mirror: The sweep at a URL, of which `folder` is the copy on this machine; None if all
            machines see `folder`.
        at_most: Maximum number of missing runs to train in this call; None trains all.
        tell: Called at the end of each run and each float network.

    Raises:
        RecipeError: `folder` is not a sweep, or its recipes differ.
        EngineError: The engine cannot run the tasks.
        KeyboardInterrupt: The active runs were stopped; a later call continues them.
    """
    files = SweepFolder(folder)
    outcome = Outcome(total=len(runs), finished=0)

    def note(task: Task, why: str) -> None:
        if why:
            outcome.failed[task.name] = why
        tell(task, why)

    known = folder.exists() if mirror is None else fetch_sweep(mirror)
    topmost = None if known else topmost_new(folder)
    with _undone(folder, topmost, mirror), files.opened(sweep, runs):
        if mirror is not None:
            put_sweep(mirror, runs)
        missing = [run for run in runs if not files.is_finished(run)]
        tasks = tasks_of(files, missing[:at_most])
        for task in tasks:
            if read_state(task.state).state != "running":  # a Slurm job is still running
                task.forget()
        if mirror is not None:
            tasks = [replace(task, mirror=mirror.url, root=folder) for task in tasks]
        (engine or LocalEngine()).run(tasks, note)
        if mirror is not None:
            fetch_status(mirror)
            fetch_finished(mirror)
        outcome.finished = sum(files.is_finished(run) for run in runs)
    return outcome


@contextmanager
def _undone(folder: Path, topmost: Path | None, mirror: Mirror | None) -> Iterator[None]:
    """Remove a new folder if the engine cannot run the sweep."""
    try:
        yield
    except EngineError:
        if topmost is not None:
            remove_new(folder, topmost)
            if mirror is not None:
                mirror.remove("")
        raise


def tasks_of(files: SweepFolder, runs: Sequence[PlannedRun]) -> list[Task]:
    """Return a task for each run, preceded by one for its float network if that is missing."""
    tasks: dict[str, Task] = {}
    for run in runs:
        key = float_key(run.recipe)
        weights = None if key is None else files.float_network(key).absolute()
        needs = None
        if weights is not None and not weights.is_file():
            needs = f"{FLOAT}-{key}"
            tasks.setdefault(
                needs,
                Task(
                    name=needs,
                    recipe=files.recipe(run).absolute(),
                    folder=weights.parent,
                    log=files.log(needs).absolute(),
                    only_float=True,
                ),
            )
        tasks[run.name] = Task(
            name=run.name,
            recipe=files.recipe(run).absolute(),
            folder=files.run(run).absolute(),
            log=files.log(run.name).absolute(),
            needs=needs,
            weights=weights,
        )
    return list(tasks.values())
