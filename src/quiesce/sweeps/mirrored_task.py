"""A task of a sweep at a URL: made in the copy on this machine, and uploaded as it goes on.

The run folder is uploaded after each checkpoint and at the end, so another machine can continue.
The checkpoint comes last: at any moment the tables at the URL are at least as long as the
checkpoint there says, and a resumed run cuts them.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quiesce.errors import EngineError, QuiesceError, first_line
from quiesce.run_folder.folder import CHECKPOINT, FLOAT_CHECKPOINT, METRICS, wait_until_unlocked
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import LOST_S, read_state

WAIT_S = 2 * LOST_S
"""Seconds to wait for another process that works on the same run."""

LOOK_S = 2.0
"""Seconds between two looks for whether it has ended."""


class MirroredTask:
    """A task whose files are at a URL.

    Args:
        task: A task with a `mirror`.

    Raises:
        RecipeError: The URL cannot be used on this machine.
    """

    def __init__(self, task: Task) -> None:
        self._mirror = Mirror(f"{task.mirror}")
        self.task = task.at(self._mirror.local)
        """The task with the paths of this machine."""
        self._checkpoints_ns: list[int] = []

    def begin(self) -> None:
        """Download what the task needs, and what an earlier attempt has uploaded.

        Raises:
            EngineError: Another process works on the task, or the URL cannot be read.
        """
        task = self.task
        with explained(self._mirror.url):
            self._wait_for_other()
            wait_until_unlocked(task.folder, LOST_S)  # an attempt of a lost node of this machine
            shutil.rmtree(task.folder, ignore_errors=True)
            needed = [task.recipe, *([] if task.weights is None else [task.weights])]
            names = [self._name(path) for path in needed if not path.is_file()]
            self._mirror.fetch([*names, *self._mirror.tree(self._name(task.folder))])
        self._checkpoints_ns = self._newest()

    def look(self) -> None:
        """Upload the run folder if there is a new checkpoint."""
        newest = self._newest()
        if newest != self._checkpoints_ns:
            with suppress(Exception):  # tried again after the next checkpoint, and at the end
                self._upload()
            self._checkpoints_ns = newest

    def beat(self) -> None:
        """Show that the task is running, and how far it is."""
        task = self.task
        with suppress(Exception):  # tried again at the next beat
            self._mirror.put([task.state, task.progress, task.folder / METRICS])

    def end(self) -> str:
        """Upload everything; return why this failed in one line, or ""."""
        try:
            self._upload()
            for name in self._mirror.tree(self._name(self.task.folder)):
                if not (
                    self._mirror.local / name
                ).exists():  # such as checkpoints of the float stage
                    self._mirror.remove(name)
            self._mirror.put([self.task.log, self.task.state])
        except Exception as error:  # each file system has errors of its own
            return f"{self._mirror.url} can not be written: {first_line(error)}"
        return ""

    def _upload(self) -> None:
        """Upload the run folder: the newest checkpoint as it is now, but after all other files."""
        folder, kept = self.task.folder, []
        for name in (CHECKPOINT, FLOAT_CHECKPOINT):
            path = folder / name
            copy = path.with_name(".uploading")
            with suppress(FileNotFoundError):
                copy.unlink(missing_ok=True)
                os.link(path, copy)
                kept.append((copy, self._name(path)))
        others = (
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".ckpt"
        )
        self._mirror.put(others)
        for copy, name in kept:
            self._mirror.put([copy], name)
            copy.unlink()

    def _newest(self) -> list[int]:
        """Return when the checkpoints were written."""
        found = []
        for name in (CHECKPOINT, FLOAT_CHECKPOINT):
            with suppress(FileNotFoundError):
                found.append((self.task.folder / name).stat().st_mtime_ns)
        return found

    def _wait_for_other(self) -> None:
        """Wait until no other process works on the task, or it has not been heard of for long.

        Raises:
            EngineError: It is still at work.
        """
        state, until_s = self.task.state, time.monotonic() + WAIT_S
        while True:
            fetch_state(self._mirror, self._name(state))
            known = read_state(state)
            if known.state != "running" or _is_gone(known.host, known.pid):
                return
            if time.monotonic() > until_s:
                raise EngineError(f"another process works on it: {known.pid} on {known.host}")
            time.sleep(LOOK_S)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._mirror.local).as_posix()


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the errors of a file system into one line."""
    try:
        yield
    except QuiesceError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise EngineError(f"{url} can not be read: {first_line(error)}") from error


def fetch_state(mirror: Mirror, name: str) -> None:
    """Download a state file, with the time at which it was written."""
    mirror.fetch([name])
    with suppress(FileNotFoundError):
        written_s = mirror.modified_s(name)
        os.utime(mirror.local / name, (written_s, written_s))


def _is_gone(host: str, pid: int) -> bool:
    """Return whether a process of this machine has ended."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return pid == os.getpid()
