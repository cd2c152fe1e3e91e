"""Tasks as job arrays of Slurm. Needs the extra `slurm`: pip install 'quiesce[slurm]'.

There are at most two arrays: the float networks, and the runs, which Slurm holds until the float
networks have ended. A job that reaches its time limit saves nothing more; submitit requeues it, and
it resumes from its last checkpoint.

The command can be stopped at any time; the jobs continue. A later call submits only tasks that are
neither finished nor in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiesce.errors import EngineError, first_line
from quiesce.extras import require
from quiesce.files.untrusted.typed_trees import typed
from quiesce.files.untrusted.yaml_and_json import read_json
from quiesce.run_folder.folder import write_json
from quiesce.sweeps.engines.engine import More, Tell
from quiesce.sweeps.processes import run_process
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import read_state

POLL_S = 5.0
"""Seconds between two checks of the jobs. submitit queries Slurm at most once a minute."""

TIMEOUTS = 100
"""Number of times that a job may reach its time limit."""

NO_MORE = (
    "--on slurm is for sweeps: a try is chosen by the results of those before it, and would wait "
    "in the queue each time; submit jobs that each run `quiesce tune` with the same -o on a shared "
    "file system, or with the same --storage URL"
)
"""Why tasks that are decided while others run are refused."""

JOBS = "jobs.json"
"""File in the folder of the jobs that maps task names to job ids."""


class SlurmEngine:
    """Submits tasks to Slurm and waits for them.

    Args:
        folder: The folder of the sweep, on a file system that all nodes share.
        fields: Fields of sbatch by the names of submitit: {"partition": "gpu", "time": 120}.
        executor: The executor class: `submitit.SlurmExecutor`, or another class of submitit with
            the same interface.

    Raises:
        MissingExtraError: submitit is not installed.
    """

    def __init__(self, folder: Path, fields: dict[str, Any], executor: Any = None) -> None:
        submitit: Any = require("submitit", "--on slurm", "slurm")
        self._folder = folder / "slurm"
        self._arrays = executor is None
        self._fields = {"job_name": folder.name, **fields} if self._arrays else fields
        self._make = executor or submitit.SlurmExecutor

    def run(self, tasks: Sequence[Task], tell: Tell, more: More | None = None) -> None:
        """Submit all tasks that are not in the queue, and wait; see `Engine.run`.

        Ctrl-C stops the waiting but not the jobs.

        Raises:
            EngineError: sbatch has no such field, this machine has no Slurm, sbatch refuses, or
                there is a `more`.
        """
        if more is not None:
            raise EngineError(NO_MORE)
        self._executor = self._made()
        jobs = self._queued(tasks)
        new = [task for task in tasks if task.name not in jobs]
        first = [task for task in new if task.needs is None]
        second = [task for task in new if task.needs is not None]
        jobs |= self._submit(first)
        if self._arrays and second:
            needed = {task.needs for task in second}
            floats = {job.job_id.split("_")[0] for name, job in jobs.items() if name in needed}
            if floats:
                self._executor.update_parameters(dependency=f"afterany:{':'.join(sorted(floats))}")
            jobs |= self._submit(second)
            second = []
        self._wait(tasks, jobs, second, tell)

    def _made(self) -> Any:
        """Return the executor of submitit with the fields."""
        try:
            executor = self._make(self._folder, max_num_timeout=TIMEOUTS)
            executor.update_parameters(**self._fields)
        except (ValueError, NameError, TypeError, AssertionError) as error:
            raise EngineError(f"--slurm: {' '.join(str(error).split())}") from error
        except RuntimeError as error:  # submitit checks for srun
            raise EngineError(
                f"--on slurm: {error}; call this on a machine that can submit jobs"
            ) from error
        return executor

    def _queued(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return the jobs of an earlier call that have not ended."""
        known = self._known()
        jobs = {
            task.name: self._make.job_class(self._folder, known[task.name])
            for task in tasks
            if task.name in known
        }
        return {name: job for name, job in jobs.items() if not job.done()}

    def _submit(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Submit tasks as one array, and save their job ids."""
        if not tasks:
            return {}
        try:
            jobs = self._executor.map_array(SlurmTask(), tasks)
        except (RuntimeError, OSError) as error:
            reason = first_line(error)
            raise EngineError(f"--on slurm: sbatch refused the jobs: {reason}") from error
        named = {task.name: job for task, job in zip(tasks, jobs, strict=True)}
        known = {**self._known(), **{name: job.job_id for name, job in named.items()}}
        write_json(self._folder / JOBS, known)
        return named

    def _known(self) -> dict[str, str]:
        """Return the ids of all submitted jobs, by task name."""
        path = self._folder / JOBS
        return typed(read_json(path), dict[str, str]) if path.is_file() else {}

    def _wait(
        self, tasks: Sequence[Task], jobs: dict[str, Any], later: list[Task], tell: Tell
    ) -> None:
        """Wait for jobs; submit `later` once its dependencies have ended, unless Slurm does so."""
        by_name = {task.name: task for task in tasks}
        failed: set[str] = set()
        while jobs or later:
            for name in [name for name, job in jobs.items() if job.done()]:
                why = _why(by_name[name], jobs.pop(name), failed)
                if why:
                    failed.add(name)
                tell(by_name[name], why)
            ready = [task for task in later if task.needs not in jobs]
            later = [task for task in later if task.needs in jobs]
            jobs |= self._submit(ready)
            if jobs:
                time.sleep(POLL_S)


class SlurmTask:
    """The callable of a job; submitit submits it again when the job reaches its time limit."""

    def __call__(self, task: Task) -> str:
        """Run a task; return the reason of a failure, or ""."""
        return run_process(task)

    def checkpoint(self, task: Task) -> Any:
        """Return the same task for submitit to submit again; it resumes."""
        submitit: Any = require("submitit", "--on slurm", "slurm")
        return submitit.helpers.DelayedSubmission(self, task)


def _why(task: Task, job: Any, failed: set[str]) -> str:
    """Return why an ended job failed, in one line, or ""."""
    try:
        return job.result()
    except Exception as error:  # any exception: raised by the job, or by Slurm at its end
        if task.needs in failed:
            return f"{task.needs} failed"
        return read_state(task.state).why or f"Slurm: {job.state}: {first_line(error)}"
