"""Runs a task as a process of this machine, and waits for it.

Every engine calls `run_process` on the machine that it has chosen. So a task computes the same
numbers on every engine, and its memory is freed when it ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from quiesce.errors import QuiesceError
from quiesce.sweeps.mirrored_task import MirroredTask
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import BEAT_S, touch, write_state

WORKER = (sys.executable, "-m", "quiesce.sweeps.worker")
"""The command that runs a task; the task is appended as the last argument."""

GRACE_S = 60.0
"""Seconds that a process has to end after Ctrl-C before it is killed."""

INTERRUPTED = 130
"""Exit code of a worker after Ctrl-C."""

STOPPED = "stopped"
"""Reason for a task that was stopped from outside; a later call of the sweep continues it."""

LOOK_S = 1.0
"""Seconds between two looks for the file that asks a task to stop."""

Running = set["subprocess.Popen[bytes]"]


class Unmirrored:
    """The files of a task in a folder that all machines see: nothing is to be done."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def begin(self) -> None:
        """Called before the start."""

    def look(self) -> None:
        """Called every `LOOK_S`."""

    def beat(self) -> None:
        """Called every `BEAT_S`."""

    def end(self) -> str:
        """Called at the end; returns why the results are not where they should be, or ""."""
        return ""


def run_process(task: Task, threads: int | None = None, running: Running | None = None) -> str:
    """Run a task to its end.

    Args:
        threads: Threads of the process, unless OMP_NUM_THREADS is set; None sets none.
        running: Set that contains the process while it runs, so that another thread can stop it.

    Returns:
        The reason of a failure in one line, or "".
    """
    try:
        files = Unmirrored(task) if task.mirror is None else MirroredTask(task)
        files.begin()
    except QuiesceError as error:
        return str(error)
    task = files.task
    if task.weights is not None and not task.weights.is_file():
        return f"{task.needs} failed" if task.needs else f"{task.weights} is missing"
    if task.stop.exists():  # it was asked to stop before it could start
        return _stopped(task, time.time())
    share = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    task.log.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.time()
    with task.log.open("wb") as log:
        process = subprocess.Popen(
            [*WORKER, task.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=task.directory,
            env={**share, **os.environ},
            start_new_session=True,  # only this process receives Ctrl-C; it forwards it once
        )
    running = set() if running is None else running
    running.add(process)
    write_state(task.state, "running", began_s=began_s)
    files.beat()
    try:
        _wait(process, task, files)
    except BaseException:
        stop([process])
        write_state(task.state, "failed", why=STOPPED, began_s=began_s)
        files.end()
        raise
    finally:
        running.discard(process)
    why = _why(task, process.returncode)
    if why and task.stop.exists():
        return _stopped(task, began_s)
    write_state(task.state, "failed" if why else "done", why=why, began_s=began_s)
    return files.end() or why


def _wait(
    process: "subprocess.Popen[bytes]", task: Task, files: "Unmirrored | MirroredTask"
) -> None:
    """Wait until a process ends; stop it if the task is asked to."""
    beat_s = time.monotonic()
    while True:
        try:
            process.wait(timeout=min(LOOK_S, BEAT_S))
            return
        except subprocess.TimeoutExpired:
            if task.stop.exists():
                stop([process])
                return
        files.look()
        if time.monotonic() - beat_s >= BEAT_S:
            beat_s = time.monotonic()
            touch(task.state)
            files.beat()


def _stopped(task: Task, began_s: float) -> str:
    why = task.stop.read_text(encoding="utf-8")
    write_state(task.state, "pruned", why=why, began_s=began_s)
    return why


def stop(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """Stop processes as Ctrl-C does; kill those that have not ended after `GRACE_S`."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        os.killpg(process.pid, signal.SIGINT)
    until_s = time.monotonic() + GRACE_S
    for process in alive:
        try:
            process.wait(timeout=max(0.0, until_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _why(task: Task, code: int) -> str:
    if code == 0:
        return ""
    if code in (-signal.SIGINT, INTERRUPTED):
        return STOPPED
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; its output is in {task.log}"
    said = task.log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return last.removeprefix("quiesce: ") or f"exit code {code}"
