"""The tries of a study: created, or continued after a kill, and told to Optuna at their end.

A try belongs to the folder that holds its runs. It is written to the study together with the name
of that folder, in one step, so a try that was cut off at any moment is found again. While a process
works on a try it holds a claim on it (`quiesce.tuning.claims`), so no other process does.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

from quiesce.errors import RecipeError
from quiesce.extras import require
from quiesce.run_folder.contents import Summary
from quiesce.sweeps.plan import PlannedRun
from quiesce.tuning.claims import Claims
from quiesce.tuning.study import Opened

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

FOLDER, TOKEN = "quiesce_folder", "quiesce_token"
"""User attributes of a try: the folder that it belongs to, and what its creator finds it by."""

WHY = "why"
"""User attribute of a failed try: the reason."""


@dataclass(kw_only=True)
class Try:
    """A try that this process works on."""

    trial: Trial
    runs: list[PlannedRun] = field(default_factory=list)
    """One run for each seed."""
    waiting: list[PlannedRun] = field(default_factory=list)
    """Runs that have not been given to the engine."""
    running: set[str] = field(default_factory=set)
    """Names of the runs that have, and have not ended."""
    why: str = ""
    """Reason of a failure."""
    pruned: bool = False
    stopped: bool = False
    """Whether a run was stopped from outside; a later call continues it."""
    epochs: int = 0
    """Completed epochs of the first run that the pruner has seen."""

    @property
    def number(self) -> int:
        """Number of the try in the study, from 0."""
        return self.trial.number


class Tries:
    """Creates, continues and ends tries.

    Args:
        opened: The study.
        folder: Name of the folder of the runs: unique among all folders that use the study.
        claims: The claims of this process.
    """

    def __init__(self, opened: Opened, folder: str, claims: Claims) -> None:
        self._opened, self._folder, self._claims = opened, folder, claims
        self._left: set[int] = set()

    def next(self) -> Try | None:
        """Return a try to work on: one that was cut off, or a new one; None if there is none."""
        with self._claims.alone():
            known = self._opened.study().get_trials(deepcopy=False)
            for trial in known:
                if self._is_cut_off(trial):
                    return self._begin(trial)
            if len(known) >= self._opened.settings.tries:
                return None
            return self._begin(self._create())

    def complete(self, each: Try, summaries: Mapping[int, Summary]) -> dict[str, float]:
        """End a try whose runs are finished; return its values by metric.

        Args:
            each: The try.
            summaries: Maps seeds to the summaries of the runs.

        Raises:
            RecipeError: A run did not measure a metric.
        """
        values: dict[str, float] = {}
        for goal in self._opened.settings.goals:
            measured = {seed: goal.of(summary) for seed, summary in summaries.items()}
            numbers = [value for value in measured.values() if value is not None]
            if len(numbers) < len(measured):
                raise RecipeError(f"{goal.key} was not measured, or is not finite")
            each.trial.set_user_attr(f"{goal.key} by seed", measured)
            values[goal.key] = fmean(numbers)
        self._end(each, values=list(values.values()))
        return values

    def fail(self, each: Try) -> None:
        """End a try that failed."""
        each.trial.set_user_attr(WHY, each.why)
        self._end(each, state="FAIL")

    def prune(self, each: Try) -> None:
        """End a try that the pruner has stopped."""
        self._end(each, state="PRUNED")

    def leave(self, each: Try) -> None:
        """Leave a try to a later call."""
        self._left.add(each.number)
        self._claims.free(_claim(each.number))

    def _is_cut_off(self, trial: FrozenTrial) -> bool:
        """Return whether a try of this folder is left over, and claim it."""
        return (
            trial.state.name == "RUNNING"
            and trial.user_attrs.get(FOLDER) == self._folder
            and trial.number not in self._left
            and not self._claims.holds(_claim(trial.number))
            and self._claims.take(_claim(trial.number))
        )

    def _create(self) -> FrozenTrial:
        optuna: Any = require("optuna.trial", "`quiesce tune`", "tune")
        token, study = uuid.uuid4().hex, self._opened.study()
        study.add_trial(
            optuna.FrozenTrial(
                number=-1,  # the storage numbers it
                trial_id=-1,
                state=optuna.TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={FOLDER: self._folder, TOKEN: token},
                system_attrs={},
                intermediate_values={},
            )
        )
        running = study.get_trials(deepcopy=False, states=(optuna.TrialState.RUNNING,))
        trial = next(each for each in running if each.user_attrs.get(TOKEN) == token)
        self._claims.take(_claim(trial.number))
        return trial

    def _begin(self, trial: FrozenTrial) -> Try:
        """Let Optuna choose the values that a try does not have yet, and plan its runs."""
        optuna: Any = require("optuna", "`quiesce tune`", "tune")
        settings, study = self._opened.settings, self._opened.study(trial.number)
        each = Try(
            trial=optuna.Trial(study, trial._trial_id),  # there is no public way to the id
            epochs=max(trial.intermediate_values, default=0),
        )
        fields = {
            name: searched.value(_suggest(each.trial, name, searched.distribution()))
            for name, searched in settings.space.items()
        }
        try:
            each.runs = settings.runs(trial.number, fields)
        except RecipeError as error:
            each.why = str(error)
        each.waiting = list(each.runs)
        return each

    def _end(
        self, each: Try, *, values: list[float] | None = None, state: str = "COMPLETE"
    ) -> None:
        optuna: Any = require("optuna.trial", "`quiesce tune`", "tune")
        self._opened.study().tell(each.number, values, state=optuna.TrialState[state])
        self._claims.free(_claim(each.number))


def _suggest(trial: Trial, name: str, distribution: Any) -> Any:
    """Return the value of a field; one that was chosen before a kill stays."""
    kind = type(distribution).__name__
    if kind == "CategoricalDistribution":
        return trial.suggest_categorical(name, distribution.choices)
    suggest = trial.suggest_int if kind == "IntDistribution" else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, log=distribution.log)


def _claim(number: int) -> str:
    return f"try-{number}"
