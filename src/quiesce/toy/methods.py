"""The methods against oscillation, and what each does to one weight.

A method is an estimator, a cure, or nothing. With it come the law that predicts how often the
weight oscillates, if there is one, and a sentence that explains the law.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from quiesce.arithmetic import estimators
from quiesce.cures import CGA, TRS, Cure, Dampening, Freezing, OsciReset, QRamping, Snap
from quiesce.toy.regression import Regression, freeze_latency
from quiesce.toy.simulation import Trace, simulate

Law = Callable[[Regression, float], float]
"""Function from regression and learning rate to oscillations per step."""

BITS = 8
TRACKER_MOMENTUM = 0.01
FREEZE_ABOVE = 0.1
COPIES = 64
"""Number of weights over which a method is averaged, if its law is about many of them."""
TRANSITIONS = 5e-3
"""Factor of TRS: it aims at this share of code changes, times the root of the bits."""
RATIO, PERIOD = 8.0, 200
"""Numbers of OsciReset."""
ALPHA, BETA, WINDOW = 5.0, 2, 30
"""Numbers of Q-Ramping, with the same period. At the published ones, 16 and 5, it begins to act at
smaller steps, and then moves the weight so far that a window sees only a part of its flips."""
BOUNDARY, ANNEALED = 0.005, 100
"""Boundary range of CGA, and the step from which it acts."""
LAWFUL = 0.5
"""Largest lr * E for which the laws hold; no step jumps over a level."""
SYMBOLS = (
    "s: step of the grid; d: distance of the optimum from the nearest grid point; r: its position "
    "between its two grid points, 0 to 1; E: mean square of the input; lr: learning rate."
)
"""Explains the letters in the sentences."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, as a row of the comparison."""

    title: str
    """Title in tables and pages."""
    sentence: str
    """The law, and whether the method cures oscillation."""
    cures: bool = False
    """Whether the weight stops at the nearest level."""
    law: Law | None = None
    """Predicts how often the weight oscillates; None without a law."""
    for_small_steps: bool = False
    """Whether the law is approximate, or holds only in the limit of small lr * E."""
    many: bool = False
    """Whether the law is about many weights, which are at different places of their cycle."""
    estimator: estimators.Estimator = estimators.STE()  # noqa: RUF009 (immutable)
    """Rounding and its gradient."""
    make: Callable[[Regression], Sequence[Cure]] = lambda regression: ()
    """Creates the cures."""


def _plain(regression: Regression, lr: float) -> float:
    return regression.frequency().item()


def _dampened(part: float) -> tuple[Law, Callable[[Regression], Sequence[Cure]]]:
    def strength(regression: Regression) -> float:
        return part * regression.critical_strength.item()

    return (
        lambda regression, lr: regression.frequency(strength(regression), lr).item(),
        lambda regression: [Dampening(strength(regression))],
    )


_BELOW, _ABOVE = _dampened(0.5), _dampened(1.5)
_HYSTERESIS = estimators.Hysteresis()


def _law5(title: str, sentence: str, estimator: estimators.Estimator) -> Method:
    """Return an estimator whose frequency is that of the STE in the limit of small steps."""
    return Method(
        title=title, sentence=sentence, law=_plain, for_small_steps=True, estimator=estimator
    )


METHODS: Mapping[str, Method] = {
    "ste": Method(
        title="STE",
        sentence="Law 2: it oscillates 2 d/s times per step at any learning rate, which changes "
        "only the amplitude (law 3). No cure.",
        law=_plain,
    ),
    "ewgs": _law5(
        "EWGS",
        "Law 5: its factor is the same on both sides of the threshold, so the frequency is that of "
        "the STE. No cure.",
        estimators.EWGS(),
    ),
    "dsq": _law5(
        "DSQ",
        "Law 5: the gradient is largest at the threshold, equally on both sides: a larger "
        "amplitude, the frequency of the STE. No cure.",
        estimators.DSQ(),
    ),
    "psg": Method(
        title="PSG",
        sentence="No law: gradients vanish on the grid, so a weight that starts beyond its level "
        "stops there, and any other oscillates. No cure: the start decides.",
        estimator=estimators.PSG(),
    ),
    "stacked_sigmoid": _law5(
        "Stacked sigmoid",
        "Law 5, as for DSQ, which has the same family of curves: the frequency of the STE. No "
        "cure.",
        estimators.StackedSigmoid(),
    ),
    "stableqat": _law5(
        "StableQAT",
        "Law 5, the frequency of the STE, for small steps; large steps reach where its gradient "
        "fades, which changes the frequency. No cure.",
        estimators.StableQAT(),
    ),
    "stochastic_rounding": Method(
        title="Stochastic rounding",
        sentence="Law 11: the latent weight settles at the optimum while codes flip at random, "
        "(2 + lr E) r (1-r) times per step: noise instead of a cycle. No cure.",
        law=lambda regression, lr: regression.random_frequency(lr).item(),
        many=True,
        estimator=estimators.StochasticRounding(),
    ),
    "hysteresis": Method(
        title="Hysteresis",
        sentence="Law 7: it oscillates rarely, and less often the lower the learning rate, so a "
        "decaying rate stops it. At a constant rate no cure.",
        law=lambda regression, lr: regression.hysteresis_frequency(lr, _HYSTERESIS.width).item(),
        for_small_steps=True,
        estimator=_HYSTERESIS,
    ),
    "q_ema": Method(
        title="Q-EMA",
        sentence="Law 8, without a formula: the average of the latent weight decides, which "
        "oscillates less often, at any learning rate. It slows, and does not stop. No cure.",
        estimator=estimators.QEMA(),
    ),
    "dampening_below": Method(
        title="Dampening below λc",
        sentence="Law 6, at half the critical strength λc = E d/s: it oscillates less often, but "
        "does not stop. Too weak: no cure.",
        law=_BELOW[0],
        make=_BELOW[1],
    ),
    "dampening_above": Method(
        title="Dampening above λc",
        sentence="Law 6, at 1.5 times the critical strength λc = E d/s: it stops, at the nearest "
        "level if the strength is below E (1 - d/s). Cures.",
        cures=True,
        law=_ABOVE[0],
        make=_ABOVE[1],
    ),
    "freezing": Method(
        title="Freezing",
        sentence="Laws 9 and 10: frozen on the level nearest to the optimum when its average "
        "frequency exceeds the threshold. Cures.",
        cures=True,
        law=lambda regression, lr: _after_freezing(regression),
        make=lambda regression: [Freezing(FREEZE_ABOVE, max_bits=BITS, max_frozen=None)],
    ),
    "trs": Method(
        title="TRS",
        sentence="Law 12: the codes of many weights change as often as the target says, because "
        "the learning rate falls until they do. At a constant target no cure; a target that falls "
        "to 0 stops them, each on the level where it is.",
        law=lambda regression, lr: TRANSITIONS * BITS**0.5,
        for_small_steps=True,
        many=True,
        make=lambda regression: [TRS(TRANSITIONS, max_bits=BITS)],
    ),
    "osci_reset": Method(
        title="OsciReset",
        sentence="Law 13: a reset takes it to the middle of its bin, and s/(2 lr E d) steps later "
        "it oscillates again, until the next reset. The smaller the learning rate, the longer it "
        "rests. No cure.",
        law=lambda regression, lr: regression.reset_frequency(lr, RATIO, PERIOD).item(),
        for_small_steps=True,
        make=lambda regression: [OsciReset(RATIO, PERIOD, max_bits=BITS)],
    ),
    "q_ramping": Method(
        title="Q-Ramping",
        sentence="Law 14: it moves in every N-th step, N times as far, so it oscillates less often "
        "and farther. After large updates a window sees few flips, and the next period has small "
        "ones. No cure.",
        law=lambda regression, lr: regression.ramped_frequency(
            lr, ALPHA, BETA, PERIOD, WINDOW
        ).item(),
        for_small_steps=True,
        make=lambda regression: [
            QRamping(ALPHA, BETA, period=PERIOD, window=WINDOW, max_bits=BITS)
        ],
    ),
    "cga": Method(
        title="CGA",
        sentence="Law 15: it stops as soon as an update takes it farther from the threshold than "
        "the boundary range, on the level where it is; an update smaller than that never does. No "
        "cure: the level is left to chance.",
        law=lambda regression, lr: regression.annealed_frequency(lr, BOUNDARY).item(),
        make=lambda regression: [CGA(BOUNDARY, ANNEALED, max_bits=BITS)],
    ),
    "snap": Method(
        title="Snap",
        sentence="Laws 2 and 9: it oscillates until the end, and is then set to the level nearest "
        "to the optimum. No cure, but the right end.",
        law=_plain,
        make=lambda regression: [Snap(max_bits=BITS)],
    ),
}
"""Name to method, in the order of the table."""


def _after_freezing(regression: Regression) -> float:
    """Return 0 if the weight is frozen, and the frequency without cure otherwise (law 10)."""
    free = regression.frequency().item()
    return 0.0 if freeze_latency(free, TRACKER_MOMENTUM, FREEZE_ABOVE) < torch.inf else free


@dataclass(frozen=True)
class Outcome:
    """What a method did to the weight; "later" is the second half of the steps."""

    method: Method
    trace: Trace
    """The whole training."""
    frequency: float
    """Oscillations per step, later."""
    law: float | None
    """The prediction of the law, or None without one."""
    amplitude: float
    """Range of the latent weight, later, in grid steps."""
    levels: tuple[float, ...]
    """Quantized values, later, ascending."""
    last: float
    """Quantized value at the end."""
    frozen_at: int | None
    """Step, from 0, after which the weight was frozen; or None."""

    @property
    def law_text(self) -> str:
        """The prediction as text: "0.679", "~0.679" in the limit of small steps, or "none"."""
        if self.law is None:
            return "none"
        return f"{'~' if self.method.for_small_steps else ''}{self.law:.3f}"

    @property
    def ending(self) -> str:
        """Where the weight ends: "0.6667 and 0.7333", "at rest on 0.7333", "frozen on ..."."""
        values = [f"{value:.4g}" for value in self.levels]
        if len(values) > 1:
            end = "" if self.frozen_at is None else f", then {self.last:.4g}"
            return f"{values[0]} and {values[-1]}{end}"
        if self.frozen_at is not None:
            return f"frozen on {values[0]}, step {self.frozen_at}"
        return f"at rest on {values[0]}"


def try_method(
    method: Method,
    regression: Regression,
    *,
    lr: float,
    steps: int,
    start: float,
    momentum: float = 0.0,
) -> Outcome:
    """Train the weight of `regression` with one method.

    Args:
        method: One of `METHODS`.
        regression: A regression with one weight.
        lr: Learning rate.
        steps: Optimizer steps; the second half is measured.
        start: First latent weight.
        momentum: Momentum of SGD. With momentum, or lr * E above 1/2, no law holds.

    Raises:
        ValueError: The target is not between two codes of an 8-bit grid, or an argument is out of
            range.
    """
    copies = COPIES if method.many else 1
    # over one range of the latent weight, so that the weights take turns
    spread = torch.linspace(0, regression.amplitude(lr).item(), copies + 1, dtype=torch.float64)
    trace = simulate(
        Regression(
            *(v.expand(copies) for v in (regression.target, regression.scale, regression.energy))
        ),
        lr=lr,
        steps=steps,
        start=start + spread[:-1],
        momentum=momentum,
        estimator=method.estimator,
        cures=method.make(regression),
        tracker_momentum=TRACKER_MOMENTUM,
        bits=BITS,
    )
    # without the last state, in which a cure may have acted after the last step
    later, latent = trace.code[steps // 2 : -1], trace.latent[steps // 2 : -1, 0]
    scale = regression.scale.item()
    lawful = method.law and momentum == 0 and lr * regression.energy.item() <= LAWFUL
    frozen = trace.frozen[1:, 0]  # after each step
    return Outcome(
        method=method,
        trace=trace,
        frequency=later.diff(dim=0).ne(0).double().mean().item(),
        law=method.law(regression, lr) if method.law and lawful else None,
        amplitude=(latent.max() - latent.min()).item() / scale,
        levels=tuple(code * scale for code in later[:, 0].unique().tolist()),
        last=trace.code[-1, 0].item() * scale,
        frozen_at=int(frozen.int().argmax()) if frozen.any() else None,
    )
