"""Warnings about mistakes in a training loop that raise no error; each is issued once."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from quiesce.cures.cure import Cure

WITHOUT_STEP = 1000
"""Number of penalties without an optimizer step after which a warning is issued."""


class Omissions:
    """Detects a training loop that omits the penalty, or whose optimizer steps are not observed."""

    def __init__(self, cures: Sequence[Cure]) -> None:
        self._cures = cures
        self._penalties = 0  # since the last step
        self._known = False  # whether the loop adds the penalty, or was warned

    def penalty_taken(self, step: int) -> None:
        """Record that the loop computed the penalty of optimizer step `step`."""
        self._known = True
        self._penalties += 1
        if step == 0 and self._penalties == WITHOUT_STEP:
            warnings.warn(
                f"penalty() was called {WITHOUT_STEP} times before the first optimizer step, so "
                "nothing is tracked or cured; pass quiesce.Control the optimizer whose step() "
                "moves the weights",
                stacklevel=3,
            )

    def penalty_missing(self, step: int) -> bool:
        """Return whether a cure has a penalty for optimizer step `step` that no loss contains."""
        if self._known:
            return False
        with torch.no_grad():
            return any(cure.penalty(step) is not None for cure in self._cures)

    def step_taken(self, step: int, optimizers: Iterable[Optimizer]) -> None:
        """Warn if the finished optimizer step `step` did not include the penalty.

        A step in which all learning rates are 0 needs none. torch.distributed.checkpoint takes one
        to create the state of an optimizer.
        """
        self._penalties = 0
        if self.penalty_missing(step) and _moves(optimizers):
            self._known = True
            warnings.warn(
                f"optimizer step {step} was taken without the penalty of the cures, so dampening "
                "has no effect; add it to the loss: loss = loss + control.penalty()",
                stacklevel=3,
            )


def _moves(optimizers: Iterable[Optimizer]) -> bool:
    """Return whether a learning rate is not 0; a group without one counts as moving."""
    return any(float(group.get("lr", 1)) for one in optimizers for group in one.param_groups)


def warn_of_restart(optimizers: Iterable[Optimizer]) -> None:
    """Warn if an optimizer has stepped before the first step of its `Control`."""
    steps = [_steps(state) for one in optimizers for state in one.state.values() if state]
    if steps:
        after = f"has taken {max(steps):g} steps" if max(steps) else "has stepped"
        warnings.warn(
            f"the optimizer {after} before, and the Control starts at step 0: its schedules and "
            "its tracker start again. To resume, save control.state_dict() and load it with "
            "control.load_state_dict()",
            stacklevel=3,
        )


def _steps(state: dict[str, Any]) -> float:
    """Return the step count in the optimizer state of a parameter, or 0 if it has none."""
    return float(state.get("step", 0))
