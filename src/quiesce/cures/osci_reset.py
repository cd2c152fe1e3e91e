"""OsciReset: weights whose code travels much farther than their latent go to the middle of the bin.

    every `period` steps, over `window` steps:
        R = sum |q_t - q_(t-1)| / sum |w_t - w_(t-1)|
    where R >= ratio:   w <- q(w)

With R near 1 the code follows the latent weight; an oscillating weight has a large R. The reset
does not change the code. It takes the weight off the threshold; if its optimum lies between two
codes, it comes back, and the next reset meets it again.

Source: Chen et al., TetraJet-v2, ICML 2026, arXiv:2510.27527. The distance of quantized weights is
measured in codes times the current scale, so a drift of the scale alone is no travel.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from quiesce.arithmetic import update_passes
from quiesce.cures.cure import Cure, as_schedule
from quiesce.cures.kept_numbers import Kept, kept_zeros, load_kept, save_kept
from quiesce.cures.repeated_window import check_window
from quiesce.cures.selection import Selection, refuse_copies
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.schedules import ScheduleLike

_FIELDS = {"before": None, "latent_way": torch.float32, "code_way": torch.float32}


class OsciReset(Cure):
    """Resets oscillating weights to the middle of their bin, again and again.

    Args:
        ratio: Distance ratio from which a weight is reset, above 0, or a schedule of the optimizer
            step at the end of a window, which disables the reset by returning None or 0. The
            released configurations use 8, the code's default is 16.
        period: Optimizer steps from one reset to the next, at least `window` + 1: published 200 to
            400.
        window: Steps over which the ratio is measured, at least 1: published 50.
        begin: Optimizer steps before the first period, 0 or more: published 8,000 to 35,000.
        max_bits: Weights with more bits are never reset.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.OsciReset(8, period=200)])
        >>> layer(x).sum().backward()
        >>> optimizer.step()
    """

    bytes_per_weight: ClassVar[int] = 12
    """The latent weight after the last step of the window, and both distances."""

    def __init__(
        self,
        ratio: float | ScheduleLike = 8.0,
        period: int = 200,
        window: int = 50,
        begin: int = 0,
        max_bits: int = 4,
    ) -> None:
        if not callable(ratio) and not ratio > 0:
            raise ValueError(f"ratio must be above 0, got {ratio}")
        check_window(period, window, begin)
        self.ratio = as_schedule(ratio)
        self.period, self.window, self.begin = period, window, begin
        self._selection = Selection(max_bits)
        self._kept: Kept = []
        self._resets = 0

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Select the weights with at most `max_bits`.

        Raises:
            TrackingError: There is none; one belongs to another toolkit; or the rounding of one
                depends on its past, so that its code in the middle of a bin can be another.
        """
        chosen = self._selection.attach(weights, tracker)
        self._selection.refuse_none("OsciReset")
        refuse_copies(chosen, "OsciReset")
        for weight in chosen:
            if weight.estimator.needs_history:
                raise TrackingError(
                    f"{weight.name}: OsciReset needs rounding to nearest, and "
                    f"{type(weight.estimator).__name__} reads the past of a weight, which a reset "
                    "would contradict; use one of them"
                )
        self._kept = kept_zeros(self._selection, _FIELDS)
        self._resets = 0

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Measure one step of the window, and reset at its end."""
        tracker, phase = self._selection.tracker, (step - self.begin) % self.period
        if step < self.begin or phase > self.window:
            return
        for group, kept in self._kept:
            group.refresh()
            for block in tracker.blocks(group):
                before, latent_way, code_way = (block.of(kept[name]) for name in _FIELDS)
                now = block.read()
                if phase == 0:
                    before.copy_(now.latent)
                    latent_way.zero_()
                    code_way.zero_()
                else:
                    block.run(update_passes.travel, now, before, latent_way, code_way)
        if phase == self.window and (ratio := self.ratio(step)):
            self._reset(ratio)

    def _reset(self, ratio: float) -> None:
        resets = []
        for group, kept in self._kept:
            resets.append(torch.zeros(len(group.weights), device=group.device))
            group.refresh()
            allowed = [float(each) for each in self._selection.allowed(group)]
            for block in self._selection.tracker.blocks(group):
                _, latent_way, code_way = (block.of(kept[name]) for name in _FIELDS)
                limit = torch.tensor(ratio, dtype=torch.float32, device=group.device)
                now = block.read()
                rows = block.run(
                    update_passes.recenter,
                    now,
                    latent_way,
                    code_way,
                    limit,
                    block.per_row(allowed),
                )
                block.write_back()
                resets[-1] += block.per_layer(rows)
        self._resets += self._selection.total(resets)

    def report(self) -> dict[str, Any]:
        """Return the number of resets."""
        return {"resets": self._resets}

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements of the window, by layer, and the number of resets."""
        return {"layers": save_kept(self._kept, self._selection), "resets": self._resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            TrackingError: It is of other layers.
        """
        load_kept(self._kept, state["layers"], "OsciReset")
        self._resets = int(state["resets"])
