"""An engine without processes, for tests that are about what a sweep does with its runs."""

from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from quiesce.errors import QuiesceError
from quiesce.sweeps.engines.engine import More, Tell, run_in_order
from quiesce.sweeps.task import Task
from quiesce.sweeps.worker import CONTINUES, work
from quiesce.training.display import Display


class InProcess:
    """Does in this process what a worker does; a new process would import torch for seconds.

    Args:
        jobs: As for a `LocalEngine`; tasks run one after the other here.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs

    def run(self, tasks: Sequence[Task], tell: Tell, more: More | None = None) -> None:
        run_in_order(tasks, _submit, tell, more, places=self.jobs, at_once=1)


def work_here(task: Task) -> str:
    """Do a task; return the reason of a failure, or ""."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONTINUES, "")  # so that it is as before afterwards
        patch.delenv(CONTINUES)
        patch.chdir(task.directory)
        try:
            work(task, Display())
        except QuiesceError as error:
            return str(error)
    return ""


def _submit(task: Task) -> Future[str]:
    done: Future[str] = Future()
    done.set_result(work_here(task))
    return done
