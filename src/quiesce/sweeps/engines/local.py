"""Runs tasks as processes on this machine: the default engine."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from quiesce.sweeps.engines.engine import More, Tell, run_in_order
from quiesce.sweeps.processes import Running, run_process, stop
from quiesce.sweeps.task import Task


class LocalEngine:
    """Runs tasks as processes of this machine.

    Args:
        jobs: The number of tasks at a time, at least 1. With more than one, the cores are divided
            among them, unless OMP_NUM_THREADS is set.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self.threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)

    def run(self, tasks: Sequence[Task], tell: Tell, more: More | None = None) -> None:
        """Run all tasks; see `Engine.run`. Ctrl-C and SIGTERM leave no process behind."""
        running: Running = set()
        with _sigterm_as_ctrl_c(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                run_in_order(
                    tasks,
                    lambda task: pool.submit(run_process, task, self.threads, running),
                    tell,
                    more,
                    places=self.jobs,
                    at_once=self.jobs,
                )
            except BaseException:
                stop(list(running))  # the threads of the pool end with their processes
                raise


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Make SIGTERM, sent at a scheduler's time limit, end a sweep as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only this one gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
