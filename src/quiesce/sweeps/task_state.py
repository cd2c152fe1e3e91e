"""The state files of a task, readable by every machine that sees the sweep's folder.

The process that waits for a worker writes the state, and touches the file every `BEAT_S` seconds. A
"running" task whose file is no longer touched is lost: its machine is gone.
"""

import os
import socket
import time
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from quiesce.files.atomic import write_beside

State = Literal["waiting", "running", "done", "failed", "lost", "pruned"]
T = TypeVar("T")

BEAT_S = 10.0
"""Seconds between two touches."""

LOST_S = 60.0
"""Age of a state file from which a running task counts as lost, in seconds."""


class TaskState(Struct, frozen=True, kw_only=True):
    """The state of a task."""

    state: State = "waiting"

    why: str = ""
    """Reason of a failure, in one line."""

    host: str = ""
    """The machine that runs it or ran it last."""

    pid: int = 0
    """The process on that machine that waits for the worker."""

    began_s: float = 0.0
    """Start time in seconds since the epoch; 0 before the start."""

    ended_s: float = 0.0
    """End time in seconds since the epoch; 0 before the end."""


class Progress(Struct, frozen=True, kw_only=True):
    """The training stage of a running task, and its steps."""

    stage: str
    step: int
    steps: int


def write_state(path: Path, state: State, *, why: str = "", began_s: float) -> None:
    """Write the state of a task that runs on this machine."""
    ended_s = 0.0 if state == "running" else time.time()
    known = TaskState(
        state=state,
        why=why,
        host=socket.gethostname(),
        pid=os.getpid(),
        began_s=began_s,
        ended_s=ended_s,
    )
    _write(path, known)


def touch(path: Path) -> None:
    """Record that the task is still running."""
    os.utime(path)


def read_state(path: Path) -> TaskState:
    """Read a state file; a missing or damaged file gives "waiting"."""
    known = _read(path, TaskState)
    if known is None:
        return TaskState()
    if known.state == "running" and time.time() - path.stat().st_mtime > LOST_S:
        return msgspec.structs.replace(known, state="lost")
    return known


def write_progress(path: Path, stage: str, step: int, steps: int) -> None:
    """Write the number of completed steps of a training stage."""
    _write(path, Progress(stage=stage, step=step, steps=steps))


def read_progress(path: Path) -> Progress | None:
    """Read the progress; None if no stage has begun."""
    return _read(path, Progress)


def _write(path: Path, content: Struct) -> None:
    data = msgspec.json.encode(content)
    write_beside(path, lambda beside: beside.write_bytes(data), needed=len(data))


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):  # missing, or being written
        return None
