"""Several commands at a time, each a process; one that fails does not stop the others."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

POLL_S = 0.1
"""Between two looks at the processes."""

GRACE_S = 60
"""For a process to end after Ctrl-C, before it is killed."""

State = Literal["started", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A command to run."""

    name: str
    """Unique among the tasks."""

    command: tuple[str, ...]
    """Program and arguments."""

    log: Path
    """Where its output goes; made with its folder."""

    needs: str | None = None
    """Name of an earlier task that must be done before."""

    prepare: Callable[[], None] = lambda: None
    """Called right before it starts."""


Tell = Callable[[Task, State, str], None]
"""Called with a task, what became of it, and why where it failed."""


def run_tasks(tasks: Sequence[Task], jobs: int, tell: Tell) -> None:
    """Run all tasks, at most `jobs` at a time, in their order as far as their needs allow.

    Args:
        tasks: A task comes behind the one that it needs.
        jobs: At least 1. With more than one, each process gets its share of the cores, unless
            OMP_NUM_THREADS is set already.
        tell: Hears of each start and end. A task whose need failed fails too.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM; the running processes were told, and have ended.
    """
    waiting = list(tasks)
    running: dict[str, tuple[Task, subprocess.Popen[bytes]]] = {}
    ended: dict[str, bool] = {}

    def end(task: Task, why: str) -> None:
        ended[task.name] = not why
        tell(task, "failed" if why else "done", why)

    environment = _environment(jobs)
    with _terminated_like_interrupted():
        try:
            while waiting or running:
                for task in _ready(waiting, ended)[: jobs - len(running)]:
                    waiting.remove(task)
                    if task.needs is not None and not ended[task.needs]:
                        end(task, f"{task.needs} failed")
                        continue
                    tell(task, "started", "")
                    running[task.name] = task, _start(task, environment)
                for task, process in list(running.values()):
                    if process.poll() is not None:
                        del running[task.name]
                        end(task, _why(process.returncode, task.log))
                if running:
                    time.sleep(POLL_S)
        finally:
            _stop([process for _, process in running.values()])


def _ready(waiting: Sequence[Task], ended: dict[str, bool]) -> list[Task]:
    return [task for task in waiting if task.needs is None or task.needs in ended]


def _start(task: Task, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    task.prepare()
    task.log.parent.mkdir(exist_ok=True)
    with task.log.open("wb") as log:
        return subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone; we pass it on once
        )


def _environment(jobs: int) -> dict[str, str]:
    share = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    return {**share, **os.environ}


def _why(code: int, log: Path) -> str:
    """Return why a process failed, in a line; nothing where it did not."""
    if code == 0:
        return ""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; its output is in {log}"
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return last.removeprefix("quiesce: ") or f"exit code {code}"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    until_s = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(timeout=max(0.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does: a scheduler's time limit leaves no process behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
