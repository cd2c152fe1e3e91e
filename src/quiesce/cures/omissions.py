"""What a training loop can leave out without an error: noticed, and told once as a UserWarning."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from quiesce.cures.cure import Cure

WITHOUT_STEP = 1000
"""Penalties for one step after which it is unlikely that a step will ever come."""


class Omissions:
    """Watches one loop for a penalty that is left out, and for steps that nobody sees.

    Args:
        cures: Those whose penalty belongs into the loss.
    """

    def __init__(self, cures: Sequence[Cure]) -> None:
        self._cures = cures
        self._penalties = 0  # since the last step
        self._known = False  # whether the loop is known to add the penalty, or was told

    def penalty_taken(self, step: int) -> None:
        """The loop has asked for the penalty of optimizer step `step`."""
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
        """Whether a cure has a penalty for optimizer step `step` that no loss contains."""
        if self._known:
            return False
        with torch.no_grad():
            return any(cure.penalty(step) is not None for cure in self._cures)

    def step_taken(self, step: int) -> None:
        """Optimizer step `step` is over."""
        self._penalties = 0
        if self.penalty_missing(step):
            self._known = True
            warnings.warn(
                f"optimizer step {step} was taken without the penalty of the cures, so dampening "
                "has no effect; add it to the loss: loss = loss + control.penalty()",
                stacklevel=3,
            )


def warn_of_restart(optimizers: Iterable[Optimizer]) -> None:
    """Say it if optimizers that are about to take the first step of a `Control` have a past."""
    steps = [_steps(state) for one in optimizers for state in one.state.values() if state]
    if steps:
        after = f"has taken {max(steps):g} steps" if max(steps) else "has stepped"
        warnings.warn(
            f"the optimizer {after} before, and the Control starts at step 0: its schedules and "
            "its tracker start anew. To resume, save control.state_dict() and load it with "
            "control.load_state_dict()",
            stacklevel=3,
        )


def _steps(state: dict[str, Any]) -> float:
    """How many steps the state of a parameter is from; 0 where it does not say."""
    return float(state.get("step", 0))
