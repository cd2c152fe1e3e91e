"""The interface of an engine, and the order of tasks that all engines follow."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol

from quiesce.sweeps.task import Task

Tell = Callable[[Task, str], None]
"""Callback for the end of a task: its argument is the reason of a failure in one line, or ""."""


class Engine(Protocol):
    """Runs the tasks of a sweep somewhere."""

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Run all tasks. A failed task stops only the tasks that need it.

        Args:
            tasks: In order of importance; a task comes after the one that it needs.
            tell: Called in this thread at the end of each task.

        Raises:
            EngineError: The engine cannot run these tasks; nothing has started.
            KeyboardInterrupt: Ctrl-C or SIGTERM.
        """
        ...


def run_in_order(
    tasks: Sequence[Task],
    submit: Callable[[Task], Future[str]],
    tell: Tell,
    at_once: int | None = None,
) -> None:
    """Submit each task once the task that it needs is done, earlier tasks first.

    Args:
        submit: Starts a task; the result of the future is the reason of a failure, or "".
        at_once: Maximum number of submitted tasks that have not ended; None for no limit.
    """
    place = {task.name: i for i, task in enumerate(tasks)}
    waiting: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        if task.needs in place:
            waiting[task.needs].append(task)
    ready = [i for i, task in enumerate(tasks) if task.needs not in place]
    ended: SimpleQueue[tuple[Task, Future[str]]] = SimpleQueue()
    running = 0
    while ready or running:
        while ready and (at_once is None or running < at_once):
            task = tasks[heapq.heappop(ready)]
            running += 1
            submit(task).add_done_callback(lambda future, task=task: ended.put((task, future)))
        task, future = ended.get()
        running -= 1
        why = future.result()
        tell(task, why)
        for after in waiting.pop(task.name, []):
            if why:
                tell(after, f"{task.name} failed")
            else:
                heapq.heappush(ready, place[after.name])
