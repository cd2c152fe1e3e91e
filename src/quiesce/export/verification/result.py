"""The result of a verification, and the rules for passing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

MAX_SHARE = 1e-4
"""Share of the codes of a layer that may differ given equal inputs, or change by the optimizations
of ONNX Runtime. A fused operator adds the same float32 products in another order. This changes a
sum by a few roundings of 2^-24, in a grid of 256 codes by at most some 3 * 256 * 2^-24 = 5e-5 of a
code, so it crosses a threshold in 1e-4 of all cases. Integer operators change nothing."""

MAX_CODES = 1
"""Largest allowed difference of a code."""

LOGITS_SHARE = 1e-5
"""Allowed difference of a logit given equal codes, as a share of the largest logit: after the last
codes all is float32, and this is some 170 of its roundings."""

LOGITS_TIMES = 4
"""The runtime may differ from the integer reference by this many times as much as training in
float32. If long float arithmetic follows the last codes, both round the same sums in other orders.
"""

MIN_AGREEMENT = 0.99
"""Share of images, pixels or tokens on which both must have the same top class."""

MAX_ERROR = 0.05
"""Largest difference of a value, as a share of the largest value of its output, if the whole file
is compared by values. Float operators such as layer norms round in another order in a runtime.
This changes about one code in a million, and each changes codes in the layers after it; with few
bits, one code is about a percent of an output."""

MAX_POINTS = 0.5
"""Largest difference of the two top-1 accuracies, in percent."""

_REMEDY = (
    "Verify with the network and the state that the file was exported from, or export it again"
)


@dataclass(kw_only=True)
class LayerCheck:
    """Comparison of one quantized input, with the trained codes as input of each layer."""

    name: str
    """Name of the layer that reads these codes, with ":2" and so on for further calls."""
    made_by: str
    """The layers that compute these codes."""
    codes: int = 0
    """Number of codes compared."""
    differ: int = 0
    """Codes in the runtime that differ from the trained network; in ONNX Runtime with or without
    optimizations, whichever is more."""
    largest: int = 0
    """Largest difference between any two of the trained network and the runtime (ONNX Runtime with
    and without optimizations), in codes."""
    optimisations: int = 0
    """Codes that the optimizations of ONNX Runtime change."""
    runtime: int = 0
    """Codes in the runtime that differ from the integer reference."""
    simulation: int = 0
    """Codes of the trained network that differ from the integer reference."""
    whole: int = 0
    """Codes that differ when the whole file runs; early differences spread."""
    undecided: int = 0
    """Codes among those that differ whose exact value is so near to a threshold that the order of a
    float32 sum decides, see `UNDECIDED`."""
    allowed: float = MAX_SHARE
    """Share of the codes that may differ."""
    excuses: bool = False
    """Whether undecided codes may differ beyond this share."""

    @property
    def passed(self) -> bool:
        """Whether the layer passes the rules."""
        counted = self.differ - self.undecided if self.excuses else self.differ
        most = max(counted, self.optimisations)
        return most <= self.allowed * self.codes and self.largest <= MAX_CODES

    @property
    def bar(self) -> str:
        """Number of codes of this layer that may differ, and by how much, as text."""
        count = int(self.allowed * self.codes)
        besides = ", except on a threshold" if self.excuses else ""
        if count == 0:
            return f"none may differ{besides}"
        return f"at most {count} may ({self.allowed:.0e} of them), by {MAX_CODES}{besides}"

    def __str__(self) -> str:
        share = self.differ / max(1, self.codes)
        who = "the runtime" if self.runtime > self.simulation else "the float simulation"
        departs = f", {who} differs from the integer reference" if self.differ else ""
        if self.undecided:
            departs += f", {self.undecided} of them on a threshold, to float32's precision"
        if self.optimisations > self.allowed * self.codes:
            departs += f", ONNX Runtime's optimisations change {self.optimisations}"
        few = self.largest <= MAX_CODES and 0 < self.codes * self.allowed < 1
        bar = f"with so few codes, {self.bar}; compare on more images" if few else self.bar
        return (
            f"{self.made_by}: {self.differ} of {self.codes} output codes differ ({share:.2g}; by at"
            f" most {self.largest}), {bar}; seen at the input of {self.name}{departs}"
        )


@dataclass(kw_only=True)
class LogitsCheck:
    """The logits, computed from the trained codes."""

    made_by: str = "the output"
    """The last layer."""
    differ: float = 0.0
    """Largest difference from the integer reference, with or without optimizations, in `unit`."""
    allowed: float = 0.0
    """The difference that float32 explains, in `unit`: see LOGITS_SHARE and LOGITS_TIMES."""
    unit: float = 1.0
    """Floats per accumulator unit of the last layer (input scale times largest weight scale)."""

    def note(self, differ: float, allowed: float) -> None:
        """Add a batch; the batch that exceeds the allowed difference most counts."""
        if not isfinite(differ) or differ * self.allowed >= self.differ * allowed:
            self.differ, self.allowed = differ, allowed

    @property
    def passed(self) -> bool:
        """Whether rounding explains the difference; NaN never passes."""
        return isfinite(self.differ) and self.differ <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.made_by}: logits differ by {self.differ:.3g} accumulator units given equal "
            f"codes, rounding explains {self.allowed:.3g}"
        )


@dataclass(kw_only=True)
class Verification:
    """The comparison of an exported file with the trained network."""

    wrong_weights: list[str]
    """Layers whose integers in the file are not the trained codes, with the reason."""
    layers: list[LayerCheck]
    logits: LogitsCheck = field(default_factory=LogitsCheck)
    images: int = 0
    """Number of inputs compared."""
    compare: str = "top1"
    """How outputs of the whole file are compared: top1, max_error, or the name of a function."""
    logits_differ: float = 0.0
    """Largest difference of an output in the whole run, in accumulator units of the last layer."""
    error: float = 0.0
    """Largest difference of an output in the whole run, as a share of its largest value."""
    items: str = "images"
    """Items that have a class: images, pixels or tokens; inputs if a function compares."""
    compared: int = 0
    """Number of these items."""
    agree: float = 0
    """Items on which both have the same top class."""
    labelled: int = 0
    """Images with a label."""
    right_trained: int = 0
    """Images that the trained network classifies correctly."""
    right_runtime: int = 0
    """Images that the file classifies correctly."""
    left_float: Sequence[str] = field(default_factory=tuple)
    """Modules with float weights in the file and the network."""
    runtime: str = "ONNX Runtime"
    """The runtime that ran the file."""

    @property
    def agreement(self) -> float:
        """Share of items on which both have the same top class."""
        return self.agree / max(1, self.compared)

    @property
    def points(self) -> float:
        """Difference of the two accuracies in percent; 0 without labels."""
        return 100 * abs(self.right_trained - self.right_runtime) / max(1, self.labelled)

    @property
    def first_departing(self) -> LayerCheck | None:
        """The first layer, in the order of the network, that breaks a rule."""
        return next((layer for layer in self.layers if not layer.passed), None)

    @property
    def passed(self) -> bool:
        """Whether the file and the network compute the same."""
        return not self._failures()

    @property
    def verdict(self) -> str:
        """First broken rule in one line, or a summary."""
        failures = self._failures()
        if failures:
            return failures[0]
        return f"weights exact; {self.layer_status}; {self.whole_status}"

    @property
    def layer_status(self) -> str:
        """Number of layers that compute the network's codes from the same inputs, as text."""
        part = [layer for layer in self.layers if layer.differ or layer.optimisations]
        if not part:
            return f"all {len(self.layers)} layers equal"
        compared = sum(layer.codes for layer in self.layers)
        differ = sum(layer.differ for layer in self.layers)
        changed = sum(layer.optimisations for layer in self.layers)
        undecided = sum(layer.undecided for layer in self.layers)
        on_threshold = f" ({undecided} on a threshold)" if undecided else ""
        return (
            f"{len(self.layers) - len(part)} of {len(self.layers)} layers equal, {differ} of "
            f"{compared} codes differ{on_threshold}, optimisations change {changed}"
        )

    @property
    def whole_status(self) -> str:
        """Comparison of the outputs of the whole file with those of the network, as text."""
        if self.compare == "max_error":
            return f"outputs differ by at most {100 * self.error:.3g} % of the largest"
        how = "top-1" if self.compare == "top1" else self.compare
        return f"{how} agrees on {self.agree:.6g} of {self.compared} {self.items}"

    def _failures(self) -> list[str]:
        failures = list(self.wrong_weights)
        if (layer := self.first_departing) is not None:
            failures.append(f"{layer}; {self.layer_status}. {_REMEDY}")
        if not self.logits.passed:
            failures.append(f"{self.logits}; {self.layer_status}. {_REMEDY}")
        if not isfinite(self.logits_differ):
            failures.append("an output of the whole run is not a number")
        if self.compare == "max_error" and not self.error <= MAX_ERROR:
            failures.append(self._whole_failure(f"at most {100 * MAX_ERROR:.3g} % are allowed"))
        if self.compare != "max_error" and self.agreement < MIN_AGREEMENT:
            failures.append(self._whole_failure(f"needs {100 * MIN_AGREEMENT:.3g} %"))
        if self.points > MAX_POINTS:
            failures.append(
                f"{self.layer_status}; the accuracies are {self.points:.2f} points apart, more "
                f"than {MAX_POINTS}; compare on more images"
            )
        return failures

    def _whole_failure(self, bar: str) -> str:
        return (
            f"{self.layer_status}; {self.whole_status}, {bar}. Outputs of random inputs or weights "
            "are nearly tied: compare on real inputs, on more of them, or by a measure of the task "
            "(compare=)"
        )
