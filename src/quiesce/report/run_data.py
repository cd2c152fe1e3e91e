"""What the report knows of a run: plain frozen data, whatever file it came from.

Shares are from 0 to 1, accuracies in percent, KL in nats, steps are optimizer steps.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quiesce.oscillation.steps_needed import steps_needed

DEPTHWISE = "depth-wise"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A number over the steps at which it was written down."""

    steps: np.ndarray
    """Shape (points,), rising."""
    values: np.ndarray
    """Shape (points,)."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many weights are where."""

    places: np.ndarray
    """Edges, one more than counts, or the value that each count is of."""
    counts: np.ndarray
    """Weights."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer at the end of the run."""

    name: str
    """In the network."""
    kind: str
    """depth-wise, point-wise, full, linear or other."""
    weights: int
    """How many."""
    bits: int | None
    """Of a code."""
    oscillating: float
    """Share of weights above the cut."""
    frozen: float
    """Share of weights that are pinned."""
    flips_per_step: float
    """Codes that change in a step."""
    distance_ratio: float | None = None
    """Way of the quantized weights over way of the latents."""
    transition_rate: float | None = None
    """Share of codes that change in a step."""
    near_threshold: float | None = None
    """Share of weights close to a threshold."""
    offsets: Histogram | None = None
    """Of latent weights between -1/2 and 1/2."""
    codes: Histogram | None = None
    """Of the codes."""


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """One batch norm: how far population statistics are from the running ones."""

    name: str
    """In the network."""
    kind: str
    """Of the layer that feeds it."""
    kl_mean: float
    """KL averaged over channels."""
    kl_max: float
    """KL of the worst channel."""

    @property
    def where(self) -> str:
        """Kind in the two words that matter."""
        return self.kind if self.kind == DEPTHWISE else "other"


@dataclass(frozen=True, kw_only=True)
class LayersOverTime:
    """Shares of each layer over the steps of training."""

    layers: tuple[str, ...]
    """Names, in the order of the file."""
    steps: np.ndarray
    """Shape (steps,)."""
    oscillating: np.ndarray
    """Shape (layers, steps); not a number where nothing was written down."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Some weights of one layer, step by step."""

    layer: str
    """Where they are."""
    steps: np.ndarray
    """Shape (steps,)."""
    index: np.ndarray
    """Shape (weights,): place in the layer's weight, flat."""
    position: np.ndarray
    """Shape (steps, weights): latent over scale, so in codes."""
    code: np.ndarray
    """Shape (steps, weights)."""
    frequency: np.ndarray
    """Shape (steps, weights)."""
    quant_min: int
    """Lowest code of the grid."""
    quant_max: int
    """Highest code of the grid."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What oscillation still costs: other codes for the weights that oscillate."""

    weights: int
    """How many oscillate."""
    samples: int
    """Networks that were drawn."""
    before: tuple[float, float]
    """Training loss and top-1 of the network as it is."""
    drawn: np.ndarray
    """Shape (samples, 2): the same of each network that was drawn."""
    learned: tuple[float, float] | None
    """The same with codes learned by the loss."""
    changed: int | None
    """Codes that learning changed."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One measure before and after re-estimation of batch norm."""

    running: float | None = None
    """On the statistics that training left."""
    reestimated: float | None = None
    """On statistics that were measured again."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was trained, on what, and how large and fast it is; None where no file tells it."""

    network: str | None = None
    """Name of the network."""
    bits: str | None = None
    """Of weights and inputs: "W3A4, first and last 8"."""
    data: str | None = None
    """Name of the data set."""
    epochs: str | None = None
    """Of the quantized network, and of the float network before it."""
    weights_bytes: float | None = None
    """Of the codes of all quantized weights, each with the bits of its layer."""
    file_bytes: float | None = None
    """Of the exported file."""
    latency_ms: float | None = None
    """Of one image in the exported file, on one thread."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All of a run."""

    folder: Path
    """Where it was read from."""
    title: str
    """What the page calls it."""
    recipe: str
    """Name of its recipe."""
    settings: str
    """All of its recipe but seed and folder: equal for runs that are repetitions."""
    seed: int | None
    """Its seed."""
    cure: str | None
    """none, dampen or freeze; None where no recipe was kept."""
    finished: bool
    """Whether it came to its end."""
    steps: int
    """Optimizer steps, as far as it went."""
    momentum: float | None = None
    """Of the frequencies of its tracker."""
    facts: Facts = field(default_factory=Facts)
    """Network, bits, data, epochs, size and latency."""
    cut: float
    """Frequency above which a weight counts as oscillating."""
    near: float
    """How close to a threshold `Layer.near_threshold` means, in codes."""
    low_bits: int | None
    """Layers with at most so many bits are what the headline is about."""
    top1_float: float | None
    """Top-1 of the float network."""
    top1_rounded: float | None
    """Top-1 right after rounding it."""
    top1: Accuracy
    """Top-1 at the end."""
    metric: float | None = None
    """Score by the metric of the recipe, of the network that the run leaves."""
    train_loss: float | None
    """Cross-entropy of the last epoch."""
    batchnorm_loss: Accuracy
    """Training loss at the end, before and after re-estimation."""
    oscillating: float | None
    """Share of low-bit weights."""
    oscillating_depthwise: float | None
    """Share of low-bit depth-wise weights; None where there are none."""
    frozen: float | None
    """Share of low-bit weights."""
    layers: tuple[Layer, ...] = ()
    """In the order of the network."""
    batchnorms: tuple[BatchNorm, ...] = ()
    """In the order of the network."""
    curves: dict[str, Series] = field(default_factory=dict)
    """Columns of metrics.csv."""
    over_time: LayersOverTime | None = None
    """Layers over the steps."""
    planned_bits: dict[str, int] = field(default_factory=dict)
    """Bits of these layers by the recipe, for where `layers` are not known."""
    batchnorm_curves: dict[str, Series] = field(default_factory=dict)
    """KL over the steps: the mean of depth-wise layers, and that of the others."""
    batchnorm_losses: dict[str, Series] = field(default_factory=dict)
    """Columns of batchnorm_loss.csv."""
    trajectories: Trajectories | None = None
    """Single weights."""
    probe: Probe | None = None
    """What `quiesce probe` found."""
    data: dict[str, object] | None = None
    """What says which images it classifies; None where no recipe was kept."""
    diagnosed: bool = False
    """Whether it has a diagnosis."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages it ran on."""

    @property
    def too_few_steps(self) -> bool:
        """Whether the frequencies are still so close to their start that 0 says nothing."""
        return self.momentum is not None and self.steps < steps_needed(self.momentum)

    @property
    def low_bit_layers(self) -> tuple[Layer, ...]:
        """The layers that the headline is about."""
        return tuple(layer for layer in self.layers if self._is_low_bit(layer))

    @property
    def other_layers(self) -> tuple[Layer, ...]:
        """The layers with more bits, usually the first and the last."""
        return tuple(layer for layer in self.layers if not self._is_low_bit(layer))

    def _is_low_bit(self, layer: Layer) -> bool:
        low = self.low_bits
        return low is None or (layer.bits is not None and layer.bits <= low)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but the seed, and their one colour on the page."""

    label: str
    """What the page calls them."""
    runs: tuple[Run, ...]
    """At least one."""
    variant: str = ""
    """Name of the recipe in a sweep over several."""
    fields: dict[str, object] = field(default_factory=dict)
    """What a sweep set for them."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a page is about."""

    title: str
    """Of the page."""
    groups: tuple[Group, ...]
    """At least one."""
    swept: tuple[str, ...] = ()
    """Fields of the recipe that a sweep varied."""
    missing: tuple[str, ...] = ()
    """Runs that a sweep has planned and not begun."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)
