"""The section of a recipe for an estimator and its parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from quiesce.arithmetic import estimators

KINDS: Mapping[str, Any] = {
    "ste": estimators.STE,
    "ewgs": estimators.EWGS,
    "dsq": estimators.DSQ,
    "stacked_sigmoid": estimators.StackedSigmoid,
    "psg": estimators.PSG,
    "stableqat": estimators.StableQAT,
    "stochastic_rounding": estimators.StochasticRounding,
    "hysteresis": estimators.Hysteresis,
    "q_ema": estimators.QEMA,
}
"""Maps a kind to its class."""

READ_BY = {field.name: kind for kind, each in KINDS.items() for field in fields(each)}
"""Maps a parameter to the kind that uses it."""


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """How values are rounded, and which gradient replaces that of rounding."""

    kind: Literal[
        "ste",
        "ewgs",
        "dsq",
        "stacked_sigmoid",
        "psg",
        "stableqat",
        "stochastic_rounding",
        "hysteresis",
        "q_ema",
    ] = "ste"
    """The estimator; all but the last three round to nearest."""
    delta: float = 0.2
    """ewgs: factor on gradients per step of rounding error, 0 to below 2."""
    alpha: float = 0.4
    """dsq: softness of the staircase, above 0 (hard) and below 1 (a straight line)."""
    slope: float = 1.0
    """stacked_sigmoid: slope of the logistic at every threshold, above 0 and at most 100."""
    scaling: float = 2.0
    """psg: factor on the gradient per step of rounding error, above 0 and at most 1000."""
    amplitude: float = 0.21
    """stableqat: amplitude of the harmonic, 0 (the STE) to below 0.2251."""
    width: float = 1.0
    """hysteresis: width of the dead band at a threshold, in steps, above 0 and at most 1."""
    beta: float = 0.998
    """q_ema: weight of the old average of the latent weight, 0 to below 1."""

    def __post_init__(self) -> None:
        for name, kind in READ_BY.items():
            if kind != self.kind and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"`{name}` is used by kind {kind}, and kind is {self.kind}: omit it, or "
                    f"set kind: {kind}"
                )
        self.estimator()

    def estimator(self) -> estimators.Estimator:
        """Return the quiesce.Estimator, which checks its parameter."""
        made = KINDS[self.kind]
        return made(**{field.name: getattr(self, field.name) for field in fields(made)})
