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
from pathlib import Path

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


def run_process(task: Task, threads: int | None = None, running: Running | None = None) -> str:
    """Run a task to its end.

    Args:
        threads: Threads of the process, unless OMP_NUM_THREADS is set; None sets none.
        running: Set that contains the process while it runs, so that another thread can stop it.

    Returns:
        The reason of a failure in one line, or "".
    """
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
    try:
        while not _has_ended(process, task.stop):
            touch(task.state)
    except BaseException:
        stop([process])
        write_state(task.state, "failed", why=STOPPED, began_s=began_s)
        raise
    finally:
        running.discard(process)
    why = _why(task, process.returncode)
    if why and task.stop.exists():
        return _stopped(task, began_s)
    write_state(task.state, "failed" if why else "done", why=why, began_s=began_s)
    return why


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


def _has_ended(process: "subprocess.Popen[bytes]", asks_to_stop: Path) -> bool:
    """Wait until a process ends, for at most `BEAT_S`; stop it if the file exists."""
    until_s = time.monotonic() + BEAT_S
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            process.wait(timeout=min(left_s, LOOK_S))
            return True
        except subprocess.TimeoutExpired:
            if asks_to_stop.exists():
                stop([process])
                return True
    return False


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
