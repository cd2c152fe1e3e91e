"""The interface of an engine, and the order of tasks that all engines follow."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Protocol

from quiesce.sweeps.task import Task

Tell = Callable[[Task, str], None]
"""Callback for the end of a task: its argument is the reason of a failure in one line, or ""."""

More = Callable[[int], Sequence[Task] | None]
"""Callback for tasks that are decided while others run. It gets the number of free places, which
may be negative, and returns tasks to add; None if there will be no more."""

TICK_S = 1.0
"""Seconds between two calls of a `More` while no task ends."""


class Engine(Protocol):
    """Runs the tasks of a sweep somewhere."""

    def run(self, tasks: Sequence[Task], tell: Tell, more: More | None = None) -> None:
        """Run all tasks. A failed task stops only the tasks that need it.

        Args:
            tasks: In order of importance; a task comes after the one that it needs.
            tell: Called in this thread at the end of each task.
            more: Called in this thread at the start, at the end of each task and every `TICK_S`
                seconds; None if `tasks` are all tasks.

        Raises:
            EngineError: The engine cannot run these tasks; nothing has started.
            KeyboardInterrupt: Ctrl-C or SIGTERM.
        """
        ...


class Unstarted:
    """Tasks that have not started: those that can start, and those that wait for another task."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, Task]] = []
        self._waiting: dict[str, list[tuple[int, Task]]] = defaultdict(list)
        self._unfinished: set[str] = set()
        self._added = 0

    def __len__(self) -> int:
        return len(self._ready) + sum(map(len, self._waiting.values()))

    def add(self, tasks: Iterable[Task]) -> None:
        """Add tasks, which come after all earlier ones."""
        for task in tasks:
            self._added += 1
            self._unfinished.add(task.name)
            if task.needs in self._unfinished:
                self._waiting[task.needs].append((self._added, task))
            else:
                heapq.heappush(self._ready, (self._added, task))

    def next(self) -> Task | None:
        """Remove and return the first task that can start."""
        return heapq.heappop(self._ready)[1] if self._ready else None

    def ended(self, task: Task, *, failed: bool) -> list[Task]:
        """Let the tasks start that waited for this one; return those that cannot."""
        self._unfinished.discard(task.name)
        after = self._waiting.pop(task.name, [])
        if failed:
            self._unfinished -= {each.name for _, each in after}
            return [each for _, each in after]
        for entry in after:
            heapq.heappush(self._ready, entry)
        return []


def run_in_order(
    tasks: Sequence[Task],
    submit: Callable[[Task], Future[str]],
    tell: Tell,
    more: More | None = None,
    *,
    places: int,
    at_once: int | None = None,
) -> None:
    """Submit each task once the task that it needs is done, earlier tasks first.

    Args:
        submit: Starts a task; the result of the future is the reason of a failure, or "".
        places: Number of tasks that can run at the same time.
        at_once: Maximum number of submitted tasks that have not ended; None for no limit.
    """
    unstarted = Unstarted()
    unstarted.add(tasks)
    ended: SimpleQueue[tuple[Task, Future[str]]] = SimpleQueue()
    running = 0
    while True:
        if more is not None:
            new = more(places - running - len(unstarted))
            unstarted.add(new or ())
            more = None if new is None else more
        while (at_once is None or running < at_once) and (task := unstarted.next()) is not None:
            running += 1
            submit(task).add_done_callback(lambda future, task=task: ended.put((task, future)))
        if not running and more is None:
            return
        try:
            task, future = ended.get(timeout=None if more is None else TICK_S)
        except Empty:
            continue
        running -= 1
        why = future.result()
        tell(task, why)
        for after in unstarted.ended(task, failed=bool(why)):
            tell(after, f"{task.name} failed")
