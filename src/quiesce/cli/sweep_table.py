"""The table of a sweep: live in a terminal, occasional lines in a log."""

import threading
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quiesce.errors import QuiesceError
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.mirrored_sweep import STATUS, fetch_copy
from quiesce.sweeps.status import StatusReader, SweepStatus, TaskStatus
from quiesce.sweeps.task import Task

ROWS = 20
"""Maximum number of rows of a live table; done and waiting runs are counted, shown if they fit."""

SHOWN = ("waiting", "running", "done", "failed", "lost", "pruned")
"""The states that are counted; the last two only where there are such runs."""

LIVE_S, URL_S, LOG_S = 1.0, 5.0, 60.0
"""Seconds between two tables, the same for a sweep at a URL, and between two lines in a log."""


class SweepTable:
    """Shows a sweep while it runs; used as a context manager.

    Args:
        console: The console. One that is not a terminal gets a line when a run ends, and one every
            `LOG_S` seconds.
        url: The URL of the sweep, if `folder` is the copy of one.
    """

    def __init__(self, folder: Path, console: Console, url: str | None = None) -> None:
        self._reader, self._console, self._url = StatusReader(folder), console, url
        if url is not None:
            self._reader = StatusReader(Mirror(url, purpose=STATUS).local)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> "SweepTable":
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._live is not None:
            self._update()
            self._live.stop()

    def tell(self, task: Task, why: str) -> None:
        """Show that a task has ended."""
        if self._live is None or why:
            self.say(f"{task.name}: failed: {why}" if why else f"{task.name}: done")

    def say(self, text: str) -> None:
        """Print a line; in a terminal it appears above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        seconds = (LIVE_S if self._url is None else URL_S) if self._live is not None else LOG_S
        while not self._over.wait(seconds):
            self._update()

    def _update(self) -> None:
        try:
            if self._url is not None:
                fetch_copy(self._url)
            status = self._reader.read()
        except QuiesceError:  # the list of runs is not there yet, or the URL does not answer now
            return
        if self._live is not None:
            self._live.update(table(status, rows=ROWS), refresh=True)
        else:
            self._console.print(counts(status), markup=False, highlight=False, soft_wrap=True)


def table(status: SweepStatus, rows: int | None = None) -> RenderableType:
    """Return the counts of a sweep, and a row for each run.

    Args:
        rows: Maximum number of rows, running and failed runs first; None shows all.
    """
    tasks = [*status.floats, *status.runs]
    if rows is not None and len(tasks) > rows:
        first = ("running", "lost", "failed", "waiting", "done", "pruned")
        tasks = sorted(tasks, key=lambda task: first.index(task.state))[:rows]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("run", overflow="fold")
    for name in ("state", "done", "epoch", "top-1", "time"):
        made.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for task in tasks:
        made.add_row(*_cells(task))
    hidden = len(status.runs) + len(status.floats) - len(tasks)
    more = [Text(f"and {hidden} more", style="dim")] if hidden else []
    return Group(made, *more, Text(counts(status)))


def counts(status: SweepStatus) -> str:
    """Return one line: the number of waiting, running, done and failed runs, and the time left."""
    known = {state: status.count(state) for state in SHOWN}
    said = [f"{n} {state}" for state, n in known.items() if n or state not in ("lost", "pruned")]
    left = status.seconds_left
    return ", ".join(said) + ("" if left is None else f"; about {time_of(left)} left")


def _cells(task: TaskStatus) -> list[str]:
    state = f"{task.state}: {task.why}" if task.why else task.state
    part = f"{task.part:.0%}" if task.state == "running" else ""
    epoch = "" if task.epoch is None else str(task.epoch)
    top1 = "" if task.top1_percent is None else f"{task.top1_percent:.1f}"
    seconds = "" if task.seconds is None else time_of(task.seconds)
    return [task.name, state, part, epoch, top1, seconds]


def time_of(seconds: float) -> str:
    """Format a time as minutes:seconds, or hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
