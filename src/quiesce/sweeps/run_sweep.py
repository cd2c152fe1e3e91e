"""A whole sweep: plan, go on where an earlier call ended, train what is missing."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quiesce.sweeps.plan import PlannedRun, float_key
from quiesce.sweeps.processes import State, Task, Tell, run_tasks
from quiesce.sweeps.sweep import Sweep
from quiesce.sweeps.sweep_folder import SweepFolder

FLOAT = "float"
"""Begins the name of the task that trains a shared float network."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a sweep's runs."""

    total: int
    """Runs of the sweep."""

    finished: int
    """Of them, those with a summary, earlier ones too."""

    failed: dict[str, str] = field(default_factory=dict)
    """Name of a run, or of the float network that runs need, and why it failed."""


def run_sweep(
    sweep: Sweep,
    runs: Sequence[PlannedRun],
    folder: Path,
    *,
    jobs: int = 1,
    at_most: int | None = None,
    tell: Tell = lambda *_: None,
) -> Outcome:
    """Train the runs of a sweep that are not finished.

    Args:
        sweep: What `runs` were planned from.
        runs: From `quiesce.sweeps.plan.plan`.
        folder: Of the sweep; made, or gone on in.
        jobs: Runs at a time, at least 1.
        at_most: Runs to do in this call, the first that are missing; None does all.
        tell: Hears of each start and end of a run, and of a float network.

    Raises:
        RecipeError: `folder` is something else's, or its recipes were others.
        KeyboardInterrupt: The running runs were stopped; a later call goes on with them.
    """
    files = SweepFolder(folder)
    outcome = Outcome(total=len(runs), finished=0)

    def note(task: Task, state: State, why: str) -> None:
        if state == "failed":
            outcome.failed[task.name] = why
        tell(task, state, why)

    with files.opened(sweep, runs):
        missing = [run for run in runs if not files.is_finished(run)]
        run_tasks(_tasks(files, missing[:at_most]), jobs, note)
        outcome.finished = sum(files.is_finished(run) for run in runs)
    return outcome


def _tasks(files: SweepFolder, runs: Sequence[PlannedRun]) -> list[Task]:
    """One task a run, and before the first that needs it one for each float network."""
    tasks: dict[str, Task] = {}
    for run in runs:
        key, needs = float_key(run.recipe), None
        if key is not None and not files.float_network(key).is_file():
            needs = f"{FLOAT}-{key}"
            if needs not in tasks:
                tasks[needs] = _float_task(files, run, key, needs)
        tasks[run.name] = _run_task(files, run, key, needs)
    return list(tasks.values())


def _float_task(files: SweepFolder, run: PlannedRun, key: str, name: str) -> Task:
    target = files.float_network(key).parent
    module = ("-m", "quiesce.sweeps.float_stage")
    return Task(
        name=name,
        command=(sys.executable, *module, str(files.recipe(run)), str(target)),
        log=files.log(name),
        prepare=lambda: files.clear(target),
    )


def _run_task(files: SweepFolder, run: PlannedRun, key: str | None, needs: str | None) -> Task:
    flags = [f"--run={files.run(run)}"]
    if key is not None:
        flags += [f"--model.weights={files.float_network(key)}", "--float_stage.epochs=null"]
    train = (sys.executable, "-m", "quiesce.cli", "train")
    if files.goes_on(run):
        command = (*train, "--resume", str(files.run(run)))
        if run.recipe.user_code:  # not that of the folder: the recipe of the sweep is trusted
            command = (*train, str(files.recipe(run)), "--resume", *flags)
        return Task(name=run.name, command=command, log=files.log(run.name))
    return Task(
        name=run.name,
        command=(*train, str(files.recipe(run)), *flags),
        log=files.log(run.name),
        needs=needs,
        prepare=lambda: files.clear(files.run(run)),
    )
