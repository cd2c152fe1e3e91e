"""Q-Ramping: a weight whose code travels much farther than its latent is updated less often.

    every `period` steps, over `window` steps:
        R = sum |q_t - q_(t-1)| / sum |w_t - w_(t-1)|
    until the next window:
        N = beta * floor(R / alpha) + 1
        the weight moves in every N-th step only, by the sum of the N updates

For gradient descent this is a batch N times larger at N times the learning rate, as published. The
frequency of an oscillation does not depend on the learning rate but on the number of updates, so it
falls to 1/N; the oscillation does not stop.

Source: Chen, Xi, Zhu, Chen, TetraJet, ICML 2025, arXiv:2502.20853. There, every epoch begins with
steps that measure R and are then undone; here these steps count. There, the optimizer gets the mean
gradient of N steps; here its updates are added, so any optimizer will do. Both are the same for
gradient descent. Momentum and the averages of Adam take every gradient here, and means of N there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from quiesce.arithmetic import update_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.kept_numbers import Kept, copied_latents, kept_zeros, load_kept, save_kept
from quiesce.cures.learning_rates import LearningRate
from quiesce.cures.repeated_window import check_window
from quiesce.cures.selection import Selection, refuse_copies
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

_FIELDS = {"latent_way": torch.float32, "code_way": torch.float32}
"""After the window, the same memory holds the updates to come, and N."""


class QRamping(Cure):
    """Updates oscillating weights less often, by the sum of the updates that they missed.

    The last step before a window makes all updates that were put off. Those that would come after
    the last step of the training are not made. During a step in which the cure measures or changes
    anything, there is a copy of the latent weights, 4 bytes each.

    Args:
        alpha: Distance ratio at which a weight is updated less often, above 0, or a schedule of the
            optimizer step at the end of a window, which disables the cure until the next one by
            returning None or 0. Published: 16.
        beta: Steps by which the interval grows for every `alpha` of the ratio, at least 1:
            published 5.
        period: Optimizer steps from one window to the next, at least `window` + 1, and thereby the
            longest interval: published, one epoch.
        window: Steps over which the ratio is measured, at least 1: published 30.
        begin: Optimizer steps before the first window, 0 or more: published 0.
        max_bits: Weights with more bits are updated in every step.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.QRamping(16, period=300)])
        >>> layer(x).sum().backward()
        >>> optimizer.step()
    """

    bytes_per_weight: ClassVar[int] = 8
    """Both distances in a window; after it, the sum of updates and the interval."""

    def __init__(
        self,
        alpha: float | ScheduleLike = 16.0,
        beta: int = 5,
        *,
        period: int,
        window: int = 30,
        begin: int = 0,
        max_bits: int = 4,
    ) -> None:
        if not callable(alpha) and not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if beta < 1:
            raise ValueError(f"beta must be at least 1 step, got {beta}")
        check_window(period, window, begin)
        self.alpha = as_schedule(alpha)
        self.beta, self.period, self.window, self.begin = beta, period, window, begin
        self._selection = Selection(max_bits)
        self._kept: Kept = []
        self._before: list[Tensor] = []  # latents of each group, during a step
        self._ramped = 0

    def refuse(self, others: Sequence[Cure]) -> None:
        """Refuse a second cure that defers updates.

        Raises:
            TrackingError: There is one.
        """
        if any(isinstance(other, QRamping) for other in others):
            raise TrackingError("two cures defer the updates of the weights; keep one QRamping")

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`.

        Raises:
            TrackingError: There is none; one belongs to another toolkit; or an average of past
                latents decides the codes of one, which the tracker knows only later in a step.
        """
        chosen = self._selection.attach(weights, tracker)
        self._selection.refuse_none("QRamping")
        refuse_copies(chosen, "QRamping")
        for weight in chosen:
            if weight.estimator.needs_average:
                raise TrackingError(
                    f"{weight.name}: QRamping measures codes before "
                    f"{type(weight.estimator).__name__} decides them; use one of the two"
                )
        self._kept, self._before = kept_zeros(self._selection, _FIELDS), []
        self._ramped = 0

    @torch.no_grad()
    def before_step(self, step: int, rates: Mapping[str, LearningRate]) -> None:
        """Copy the latents."""
        _ = self._selection.tracker  # raises an error without one
        self._before = copied_latents(self._selection) if self._acts(step) else []

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Measure in a window; after it, undo or complete the updates of oscillating weights."""
        phase = (step - self.begin) % self.period
        last = phase == self.window - 1
        alpha = (self.alpha(step) or 0.0) if last else 0.0
        ramped = []
        for (group, kept), before in zip(self._kept, self._before, strict=False):
            group.refresh()
            ramped.append(torch.zeros(len(group.weights), device=group.device))
            allowed = [float(each) for each in self._selection.allowed(group)]
            for block in self._selection.tracker.blocks(group):
                first, second = (block.of(kept[name]) for name in _FIELDS)
                now = block.read()
                if phase >= self.window:
                    turn = torch.tensor(self._turn(phase), device=group.device)
                    rows = block.per_row(allowed)
                    block.run(update_passes.ramp, now, block.of(before), first, second, turn, rows)
                    block.write_back()
                    continue
                if phase == 0:
                    first.zero_()
                    second.zero_()
                if self._selection.tracker.steps:  # else the records are not those of a step
                    block.run(update_passes.travel, now, block.of(before), first, second)
                if last:
                    rule = torch.tensor([alpha, float(self.beta)], device=group.device)
                    rows = block.run(update_passes.intervals, now, first, second, rule)
                    ramped[-1] += block.per_layer(rows)
        if last and ramped:
            self._ramped = self._selection.total(ramped)
        self._before = []

    def _acts(self, step: int) -> bool:
        """Return whether the step is measured, or an update in it may have to wait."""
        phase = (step - self.begin) % self.period
        return step >= self.begin and (phase < self.window or self._ramped > 0)

    def _turn(self, phase: int) -> float:
        """Return the step since the window, from 1; 0 in the last step of a period."""
        return 0.0 if phase == self.period - 1 else float(phase - self.window + 1)

    def report(self) -> dict[str, Any]:
        """Return the number of weights that are not updated in every step."""
        return {"ramped": self._ramped}

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of all weights by layer, and how many are ramped."""
        return {"layers": save_kept(self._kept, self._selection), "ramped": self._ramped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            TrackingError: It is of other layers.
        """
        load_kept(self._kept, state["layers"], "QRamping")
        self._ramped = int(state["ramped"])
