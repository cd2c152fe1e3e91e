"""Reads the status of a sweep from its folder alone: on any machine, during or after the sweep."""

from __future__ import annotations

import csv
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiesce.errors import RecipeError
from quiesce.run_folder.contents import SweepFile
from quiesce.run_folder.folder import METRICS, SUMMARY, SWEEP, TUNE
from quiesce.run_folder.reading import read_json
from quiesce.sweeps.task_state import State, read_progress, read_state

LOGS, RECIPES = "logs", "recipes"

ENDED = ("done", "failed", "pruned")
"""The states of tasks that have ended."""


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """The status of a run, or of a float network that runs wait for."""

    name: str
    state: State

    epoch: int | None = None
    """Number of completed epochs."""

    step: int | None = None
    """Completed steps of the current training stage; a run that trains its own float network starts
    with that stage."""

    steps: int | None = None
    """Total steps of this stage."""

    top1_percent: float | None = None
    """Accuracy after the last epoch."""

    host: str = ""
    """The machine that runs it or ran it last."""

    why: str = ""
    """Reason of a failure."""

    seconds: float | None = None
    """Seconds since its start, or its duration."""

    @property
    def part(self) -> float:
        """Completed share, from 0 to 1."""
        if self.state in ENDED:
            return 1.0
        return min(1.0, (self.step or 0) / self.steps) if self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """The status of a sweep."""

    folder: Path

    runs: list[TaskStatus]
    """All runs, in the order of the sweep."""

    floats: list[TaskStatus]
    """The float networks in training, and those whose training failed."""

    def count(self, *states: State) -> int:
        """Return the number of runs in these states."""
        return sum(run.state in states for run in self.runs)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time until all runs are done; None if it is unknown.

        It is the mean time of a run, times the remaining work, divided by the runs at a time.
        """
        took = [run.seconds for run in self.runs if run.state == "done" and run.seconds]
        took += [
            run.seconds / run.part
            for run in self.runs
            if run.state == "running" and run.seconds and run.part
        ]
        running = self.count("running")
        if not took or not running:
            return None
        return sum(took) / len(took) * sum(1 - run.part for run in self.runs) / running

    def tree(self) -> dict[str, Any]:
        """Return the status as JSON; docs/json.md describes it."""
        rows = {"runs": self.runs, "float_networks": self.floats}
        left = self.seconds_left
        return {
            "folder": str(self.folder),
            "counts": {
                state: self.count(state)
                for state in ("waiting", "running", "done", "failed", "lost", "pruned")
            },
            "seconds_left": None if left is None else round(left, 1),
            **{name: [vars(row) for row in each] for name, each in rows.items()},
        }


def read_status(folder: Path) -> SweepStatus:
    """Read the status of a sweep, or of the runs of a study.

    Raises:
        RecipeError: The folder is neither.
    """
    return StatusReader(folder).read()


class StatusReader:
    """Reads the status of a sweep again and again.

    The files of runs that have ended or not begun are read once, so that the time of a reading
    hardly depends on the number of runs.

    Args:
        folder: The folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, TaskStatus] = {}
        self._failed_ns: dict[str, int] = {}
        self._names: list[str] = []
        self._listed_ns: int | None = None

    def read(self) -> SweepStatus:
        """Read the status.

        Raises:
            RecipeError: The folder is not the folder of a sweep or a study.
        """
        names = self._names_now()
        logs = self._folder / LOGS
        begun = {path[:-5] for path in _entries(logs) if path.endswith(".json")}
        others = sorted(begun.difference(names))
        for name in (*names, *others):
            if not self._is_known(name, begun):
                self._known[name] = _status(self._folder, name)
        return SweepStatus(
            folder=self._folder,
            runs=[self._known[name] for name in names],
            floats=[self._known[name] for name in others if self._known[name].state != "done"],
        )

    def _names_now(self) -> list[str]:
        """Return the names of the runs; the list is read again if it has changed."""
        folder = self._folder
        source = folder / (SWEEP if (folder / SWEEP).is_file() else RECIPES)
        changed_ns = source.stat().st_mtime_ns if source.exists() else None
        if changed_ns is None or changed_ns != self._listed_ns:
            self._names = _names(folder)
            self._listed_ns = changed_ns
        return self._names

    def _is_known(self, name: str, begun: set[str]) -> bool:
        """Return whether the status is the same as at the last reading."""
        if name not in self._known:
            return False
        state = self._known[name].state
        if state == "waiting":
            return name not in begun
        if state not in ("failed", "pruned"):
            return state == "done"
        try:  # a later call of the sweep runs it again
            changed_ns = (self._folder / LOGS / f"{name}.json").stat().st_mtime_ns
        except FileNotFoundError:
            return False
        same = self._failed_ns.get(name) == changed_ns
        self._failed_ns[name] = changed_ns
        return same


def _names(folder: Path) -> list[str]:
    """Return the names of the runs, in the order of the sweep, or of the tries of a study."""
    if (folder / SWEEP).is_file():
        return [run.folder for run in read_json(folder / SWEEP, SweepFile).runs]
    if not (folder / TUNE).is_file():
        raise RecipeError(f"{folder} has no {SWEEP}: it is not the folder of a sweep")
    recipes = [name.removesuffix(".yaml") for name in _entries(folder / RECIPES)]
    return sorted(recipes, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def _entries(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:  # nothing has begun
        return []


def _status(folder: Path, name: str) -> TaskStatus:
    known, run = read_state(folder / LOGS / f"{name}.json"), folder / name
    state = "done" if (run / SUMMARY).is_file() else known.state
    if state == "waiting":
        return TaskStatus(name=name, state=state)
    epoch, top1_percent = _last_epoch(run / METRICS)
    progress = read_progress(folder / LOGS / f"{name}.progress") if state == "running" else None
    until_s = known.ended_s or time.time()
    return TaskStatus(
        name=name,
        state=state,
        epoch=epoch,
        step=None if progress is None else progress.step,
        steps=None if progress is None else progress.steps,
        top1_percent=top1_percent,
        host=known.host,
        why=known.why if state in ("failed", "pruned") else "",
        seconds=round(until_s - known.began_s, 1) if known.began_s else None,
    )


def accuracies(metrics: Path) -> list[tuple[int, float]]:
    """Return epochs, from 0, and the test accuracies after them; those that have been measured."""
    try:
        with metrics.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("top1_percent")]
        return [(int(row["epoch"]), float(row["top1_percent"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):  # missing, or being written
        return []


def _last_epoch(metrics: Path) -> tuple[int | None, float | None]:
    """Return the number of completed epochs, and the accuracy after the last one."""
    known = accuracies(metrics)
    return (known[-1][0] + 1, known[-1][1]) if known else (None, None)
