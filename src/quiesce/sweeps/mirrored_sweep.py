"""A sweep at a URL: what the machine that runs the command downloads and uploads.

The URL is the truth. What only the copy on this machine has is made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from quiesce.errors import RecipeError
from quiesce.run_folder.contents import SweepFile
from quiesce.run_folder.folder import FLOAT_NETWORK, METRICS, RECIPE, SUMMARY, SWEEP
from quiesce.run_folder.reading import read_json
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.mirrored_task import explained
from quiesce.sweeps.plan import PlannedRun
from quiesce.sweeps.status import LOGS, RECIPES
from quiesce.sweeps.task_state import read_state

STATUS = "-status"
"""Purpose of the copy that only shows the status."""


def fetch_sweep(mirror: Mirror) -> bool:
    """Bring the copy up to date: list of runs, recipes, states, float networks, finished runs.

    Returns:
        Whether there is a sweep at the URL.

    Raises:
        RecipeError: The URL cannot be written, or holds other files.
    """
    mirror.check()
    with explained(mirror.url):
        if mirror.reads(SWEEP) is None:
            if mirror.tree(""):
                raise RecipeError(f"{mirror.url} exists and is no sweep; name another: -o FOLDER")
            shutil.rmtree(mirror.local)  # of a sweep that was removed
            return False
        networks = [name for name in mirror.tree("float") if name.endswith(FLOAT_NETWORK)]
        known = [*mirror.files(RECIPES), *networks]
        mirror.fetch([SWEEP, *(name for name in known if not (mirror.local / name).is_file())])
        fetch_status(mirror)
        fetch_finished(mirror)
    return True


def put_sweep(mirror: Mirror, runs: Sequence[PlannedRun]) -> None:
    """Upload the list of runs, and their recipes."""
    with explained(mirror.url):
        there = set(mirror.files(RECIPES))
        recipes = [f"{RECIPES}/{run.name}.yaml" for run in runs]
        new = [mirror.local / name for name in recipes if name not in there]
        mirror.put([*new, mirror.local / SWEEP])


def fetch_finished(mirror: Mirror) -> None:
    """Download summary and recipe of the runs that are finished; remove what only the copy has.

    A run whose summary was uploaded, but not its state, is downloaded when its task begins.
    """
    for run in read_json(mirror.local / SWEEP, SweepFile).runs:
        folder = mirror.local / run.folder
        finished = read_state(mirror.local / LOGS / f"{run.folder}.json").state == "done"
        if finished and not (folder / SUMMARY).is_file():
            mirror.fetch([f"{run.folder}/{RECIPE}", f"{run.folder}/{SUMMARY}"])
        elif not finished and folder.exists():
            shutil.rmtree(folder)


def fetch_status(mirror: Mirror) -> None:
    """Download the states of all tasks that have changed, and the metrics of these runs."""
    for name in mirror.files(LOGS):
        path = mirror.local / name
        if path.suffix not in (".json", ".progress"):
            continue
        written_s = mirror.modified_s(name)
        if path.is_file() and path.stat().st_mtime == written_s:
            continue
        mirror.fetch([name])
        if path.suffix == ".json":
            mirror.fetch([f"{path.stem}/{METRICS}"])
        os.utime(path, (written_s, written_s))


def fetch_copy(url: str) -> Path:
    """Bring a copy of a sweep at a URL up to date that holds only what `read_status` reads.

    Raises:
        RecipeError: There is no such protocol, or no sweep at the URL.
        EngineError: The URL cannot be read.
    """
    mirror = Mirror(url, purpose=STATUS)
    with explained(url):
        if mirror.reads(SWEEP) is None:
            raise RecipeError(f"{url} has no {SWEEP}: it is not the folder of a sweep")
        mirror.fetch([SWEEP])
        fetch_status(mirror)
    return mirror.local
