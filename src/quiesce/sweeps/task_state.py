"""The state file of a task, which every machine that sees the sweep's folder can read.

The process that waits for a worker writes it, and touches it every `BEAT_S` seconds. A task whose
state says "running" in a file that nobody touches any more is lost: its machine is gone.
"""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quiesce.files.untrusted.yaml_and_json import read_json
from quiesce.run_folder.folder import write_json

State = Literal["waiting", "running", "done", "failed", "lost"]

BEAT_S = 10.0
"""Seconds between two touches."""

LOST_S = 60.0
"""Age of a state file from which a running task counts as lost."""


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What is known of a task."""

    state: State = "waiting"

    why: str = ""
    """Why it failed, in one line."""

    host: str = ""
    """The machine that runs it, or ran it last."""

    began_s: float = 0.0
    """When it began, in seconds since the epoch; 0 if it has not."""

    ended_s: float = 0.0
    """When it ended; 0 if it has not."""


def write_state(path: Path, state: State, *, why: str = "", began_s: float) -> None:
    """Write the state of a task that runs on this machine."""
    ended_s = 0.0 if state == "running" else time.time()
    tree = {"state": state, "why": why, "host": socket.gethostname()}
    write_json(path, {**tree, "began_s": began_s, "ended_s": ended_s})


def touch(path: Path) -> None:
    """Say that the task still runs."""
    os.utime(path)


class Progress(NamedTuple):
    """How far the training stage of a running task is."""

    stage: str
    step: int
    steps: int


def write_progress(path: Path, stage: str, step: int, steps: int) -> None:
    """Write how many steps of a training stage are done."""
    write_json(path, Progress(stage, step, steps)._asdict())


def read_progress(path: Path) -> Progress | None:
    """Read it; None if no stage has begun."""
    try:
        return Progress(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None


def read_state(path: Path) -> TaskState:
    """Read a state file; a file that is missing or damaged gives "waiting"."""
    try:
        tree: dict[str, Any] = read_json(path)
        read = TaskState(**tree)
        if read.state == "running" and time.time() - path.stat().st_mtime > LOST_S:
            return TaskState(**{**tree, "state": "lost"})
    except (OSError, ValueError, TypeError):
        return TaskState()
    return read
