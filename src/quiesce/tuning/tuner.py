"""The loop of a study: asks for tries while an engine has free places, and tells their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from quiesce.errors import RecipeError
from quiesce.run_folder.contents import Summary
from quiesce.run_folder.folder import SUMMARY, write_text
from quiesce.run_folder.reading import read_json
from quiesce.sweeps.processes import STOPPED
from quiesce.sweeps.run_sweep import tasks_of
from quiesce.sweeps.sweep_folder import SweepFolder
from quiesce.sweeps.task import Task
from quiesce.tuning.claims import Claims
from quiesce.tuning.pruning import watch
from quiesce.tuning.settings import Settings
from quiesce.tuning.tries import Tries, Try

FAILURES = 5
"""The study stops if this many tries fail before one succeeds."""


class Tuner:
    """Feeds an engine with the runs of tries.

    Args:
        settings: The settings of the study.
        tries: The tries of the study.
        files: The folder of the runs.
        claims: The claims of this process.
        tell: Called with a line about each try that ends.
    """

    def __init__(
        self,
        settings: Settings,
        tries: Tries,
        files: SweepFolder,
        claims: Claims,
        tell: Callable[[str], object],
    ) -> None:
        self._settings, self._tries, self._files = settings, tries, files
        self._claims, self._tell = claims, tell
        self._open: dict[int, Try] = {}
        self._try_of: dict[str, int] = {}
        self._ends: Counter[str] = Counter()
        self._network_fails: dict[str, str] = {}

    def more(self, free: int) -> Sequence[Task] | None:
        """Return the tasks that can start now; see `More` of the engines."""
        tasks: list[Task] = []
        for each in list(self._open.values()):
            tasks += self._go_on(each)
        while len(tasks) < free and (each := self._tries.next()) is not None:
            self._open[each.number] = each
            tasks += self._go_on(each)
        return tasks if tasks or self._open else None

    def ended(self, task: Task, why: str) -> None:
        """Take the end of a task into account; see `Tell` of the engines."""
        self._claims.free(task.name)  # if it has trained a float network
        if task.name not in self._try_of:
            self._network_fails[f"{task.name} failed"] = why
            return
        each = self._open[self._try_of.pop(task.name)]
        each.running.discard(task.name)
        if why == STOPPED:
            each.stopped = True
            each.waiting.clear()
        elif why and not each.pruned:
            why = self._network_fails.get(why, why)
            each.why = each.why or f"{task.name}: {why}"
            self._stop(each, f"another run of try {each.number} failed")

    def _go_on(self, each: Try) -> list[Task]:
        """Prune a try, start its runs, or end it; return the tasks of the runs."""
        if self._settings.pruner is not None and not (each.pruned or each.stopped or each.why):
            watch(each, self._files)
            if each.pruned:
                self._stop(each, "pruned")
        tasks = self._startable(each)
        if not each.waiting and not each.running:
            del self._open[each.number]
            self._end(each)
        return tasks

    def _startable(self, each: Try) -> list[Task]:
        """Return tasks of waiting runs that can start.

        With a pruner, the other runs wait for the first one. Runs whose float network another
        process trains wait for it.
        """
        tasks: list[Task] = []
        for run in list(each.waiting):
            if self._files.is_finished(run):  # before a kill
                each.waiting.remove(run)
                continue
            if self._settings.pruner is not None and each.runs[0].name in each.running:
                break
            *network, task = tasks_of(self._files, [run])
            if network and not self._claims.holds(network[0].name):
                if not self._claims.take(network[0].name):
                    continue
                *network, task = tasks_of(self._files, [run])  # it may have ended just now
                if not network:
                    self._claims.free(f"{task.needs}")
                tasks += network
            self._files.keep_recipe(run)
            task.forget()
            tasks.append(task)
            each.waiting.remove(run)
            each.running.add(run.name)
            self._try_of[run.name] = each.number
        return tasks

    def _stop(self, each: Try, why: str) -> None:
        """Stop the runs of a try."""
        each.waiting.clear()
        for name in each.running:
            write_text(self._files.log(name).with_suffix(".stop"), why)

    def _end(self, each: Try) -> None:
        """Tell the study how a try has ended.

        Raises:
            RecipeError: The first tries have all failed.
        """
        if each.stopped:
            self._tries.leave(each)
        elif each.pruned:
            self._tries.prune(each)
            self._note(each, "pruned", f"pruned after {each.epochs} epochs")
        elif each.why:
            self._fail(each)
        else:
            try:
                values = self._tries.complete(each, self._summaries(each))
            except RecipeError as error:
                each.why = str(error)
                self._fail(each)
                return
            told = [f"{goal.key} {goal.text(values[goal.key])}" for goal in self._settings.goals]
            self._note(each, "done", ", ".join(told))

    def _fail(self, each: Try) -> None:
        self._tries.fail(each)
        self._note(each, "failed", f"failed: {each.why}")
        if self._ends["failed"] >= FAILURES and not self._ends["done"]:
            raise RecipeError(
                f"the first {FAILURES} tries failed; the last one, try {each.number}: {each.why}"
            )

    def _note(self, each: Try, end: str, told: str) -> None:
        self._ends[end] += 1
        self._tell(f"try {each.number}: {told}")

    def _summaries(self, each: Try) -> dict[int, Summary]:
        return {
            run.recipe.seed: read_json(self._files.run(run) / SUMMARY, Summary) for run in each.runs
        }
