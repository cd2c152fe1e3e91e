"""The section of a recipe for the cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quiesce.recipes.sections import RampConfig, check

USED_BY: Mapping[str, tuple[str, ...]] = {
    "strength": ("dampen",),
    "aggregation": ("dampen",),
    "threshold": ("freeze",),
    "target": ("freeze", "dampen"),
    "average": ("freeze",),
    "max_frozen": ("freeze",),
    "transitions": ("trs",),
    "eta": ("trs",),
    "ratio": ("osci_reset",),
    "boundary_range": ("cga",),
    "alpha": ("q_ramping",),
    "beta": ("q_ramping",),
    "period": ("osci_reset", "q_ramping"),
    "window": ("osci_reset", "q_ramping"),
    "begin": ("osci_reset", "q_ramping", "cga"),
    "max_bits": ("freeze", "dampen", "trs", "osci_reset", "q_ramping", "cga"),
}
"""Maps a field to the kinds that use it; other fields are used by every kind."""


@dataclass(frozen=True, kw_only=True)
class CureConfig:
    """The method against oscillating weights."""

    kind: Literal["none", "dampen", "freeze", "trs", "osci_reset", "q_ramping", "cga"] = "none"
    """none (plain LSQ), dampen (penalty on the distance to the grid), freeze (fixed codes), trs
    (the learning rate follows a rate of code changes), osci_reset (oscillating weights go to the
    middle of their bin), q_ramping (oscillating weights are updated less often) or cga (at the end,
    only weights at a threshold learn)."""
    strength: RampConfig = RampConfig(end=0.1)  # noqa: RUF009 (immutable)
    """dampen: factor of the penalty in the loss, 0 or more."""
    aggregation: Literal["sum", "mean", "kernel_mean"] = "kernel_mean"
    """dampen: how squared distances are combined in each layer. sum is the formula of the paper;
    kernel_mean (sum over output channels, mean over the rest) is used by the published recipes."""
    threshold: RampConfig = RampConfig(start=0.1, end=0.01)  # noqa: RUF009 (immutable)
    """freeze: oscillation frequency above which a weight is frozen, above 0 and at most 1."""
    target: float | None = None
    """freeze, dampen: share of the weights with at most `max_bits` that may oscillate at the end,
    above 0 and below 1. The threshold or the strength is then set during the run, to reach it with
    as little as possible; null follows `threshold` or `strength`."""
    average: Literal["code", "last"] = "code"
    """freeze: freeze at the rounded running average of the code, or at the last code."""
    max_frozen: float | None = 0.6
    """freeze: largest share of frozen weights in a layer, above 0 and below 1. The run stops when
    it is exceeded; null disables the check."""
    transitions: RampConfig = RampConfig(start=0.005, begin=0.0)  # noqa: RUF009 (immutable)
    """trs: the factor lambda, 0 or more; the share of codes that should change in a step is lambda
    times the square root of the bits."""
    eta: float = 1.0
    """trs: rate of the controller, in units of the initial learning rate, above 0."""
    ratio: float = 8.0
    """osci_reset: distance ratio from which a weight is reset, above 0."""
    boundary_range: float = 0.005
    """cga: largest distance from a threshold at which a weight learns, in grid steps, above 0 and
    at most 0.5."""
    alpha: float = 16.0
    """q_ramping: distance ratio at which a weight is updated less often, above 0."""
    beta: int = 5
    """q_ramping: steps by which the interval between updates grows for every `alpha` of the ratio,
    at least 1."""
    period: int = 200
    """osci_reset: optimizer steps from one reset to the next, above `window`; q_ramping: from one
    measurement to the next (published: one epoch)."""
    window: int = 50
    """osci_reset, q_ramping: steps over which the ratio is measured, at least 1 (published: 50
    before a reset, 30 at the start of a period of q_ramping)."""
    begin: float = 0.25
    """osci_reset, q_ramping: share of the training before the first period, 0 to below 1; cga:
    before the cure (published: a training of its own, so near 1)."""
    max_bits: int = 4
    """freeze, trs, osci_reset, q_ramping, cga: act only on weights with at most this many bits, 2
    to 8. dampen with a target: count only these."""
    snap: Literal["none", "average", "learned"] = "none"
    """What weights that still oscillate after training become: none leaves them as they are,
    average gives them the code that they had most often, learned chooses between their two codes by
    the loss on training batches."""
    snap_steps: int = 300
    """snap learned: steps to learn codes, at least 1."""
    snap_batches: int = 50
    """snap learned: training batches to learn from, at least 1."""

    correction_batches: int | None = None
    """Training batches from which quantization correction learns a factor and an offset for every
    channel of every layer after training and re-estimation, at least 1 (published: one epoch); null
    switches it off."""
    correction_lr: float = 1e-4
    """Learning rate of quantization correction, above 0."""

    def __post_init__(self) -> None:
        batches = self.correction_batches
        check(batches is None or batches >= 1, "correction_batches", "at least 1, or null", batches)
        for name in USED_BY:
            self._check_used(name)
        self._check_target()
        for field in ("strength", "threshold", "transitions"):
            for end in ("start", "end"):
                self._check_level(field, end)
        check(2 <= self.max_bits <= 8, "max_bits", "2 to 8", self.max_bits)
        most = self.max_frozen
        check(most is None or 0 < most < 1, "max_frozen", "above 0 and below 1, or null", most)
        for name in ("eta", "ratio", "alpha", "correction_lr"):
            check(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("beta", "window", "snap_steps", "snap_batches"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        near = self.boundary_range
        check(0 < near <= 0.5, "boundary_range", "above 0 and at most 0.5", near)
        rule = f"above window ({self.window})"
        check(self.period > self.window, "period", rule, self.period)
        check(0 <= self.begin < 1, "begin", "0 to below 1", self.begin)

    def _check_used(self, name: str) -> None:
        """Refuse a field that was set although this kind does not use it."""
        kinds = USED_BY[name]
        if self.kind not in kinds and getattr(self, name) != getattr(type(self), name):
            raise ValueError(
                f"`{name}` is used by kind {' or '.join(kinds)}, and kind is {self.kind}: omit it, "
                f"or set kind: {kinds[0]}"
            )

    def _check_target(self) -> None:
        """Refuse a target out of range, and one beside the schedule that it would replace."""
        if self.target is None:
            if self.kind == "dampen" and self.max_bits != type(self).max_bits:
                raise ValueError(
                    "`max_bits` is used by kind freeze, trs or osci_reset, and by dampen with a "
                    "target: omit it, or set a target"
                )
            return
        rule = "above 0 and below 1, a share of oscillating weights, or null"
        check(0 < self.target < 1, "target", rule, self.target)
        field = "strength" if self.kind == "dampen" else "threshold"
        if getattr(self, field) != getattr(type(self), field):
            raise ValueError(
                f"`target` and `{field}` are both set, and a target sets the {field} itself: omit "
                "one of them"
            )

    def _check_level(self, field: str, end: str) -> None:
        level = getattr(getattr(self, field), end)
        if field == "threshold":
            check(0 < level <= 1, f"{field}.{end}", "above 0 and at most 1", level)
        else:
            check(level >= 0, f"{field}.{end}", "0 or more", level)
