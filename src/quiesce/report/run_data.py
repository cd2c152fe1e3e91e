"""The data of the page, independent of the source files.

Shares are from 0 to 1, accuracies in percent, KL in nats, steps are optimizer steps.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quiesce.oscillation.steps_needed import steps_needed
from quiesce.run_folder.contents import (
    DiagnosedLayer,
    DiagnosedNorm,
    KeptScheme,
    ProbeFile,
    ShippedFile,
    SteeredShare,
)

DEPTHWISE = "depth-wise"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A quantity and the steps at which it was recorded."""

    steps: np.ndarray
    """Shape (points,), ascending."""
    values: np.ndarray
    """Shape (points,)."""


@dataclass(frozen=True, kw_only=True)
class LayersOverTime:
    """Oscillating share of each layer over the steps of training."""

    layers: tuple[str, ...]
    bits: dict[str, int]
    """Bits of each layer; empty if the file does not contain them."""
    steps: np.ndarray
    """Shape (steps,)."""
    oscillating: np.ndarray
    """Shape (layers, steps); NaN for missing values."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Some weights of one layer, step by step."""

    layer: str
    steps: np.ndarray
    """Shape (steps,)."""
    index: np.ndarray
    """Shape (weights,): indices into the flattened weight of the layer."""
    position: np.ndarray
    """Shape (steps, weights): latent weight divided by scale, in codes."""
    code: np.ndarray
    """Shape (steps, weights)."""
    frequency: np.ndarray
    """Shape (steps, weights)."""
    quant_min: int
    quant_max: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One measure with running and with re-estimated batch-norm statistics."""

    running: float | None = None
    reestimated: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything known about a run; None or empty if the folder has no file with the value."""

    folder: Path
    title: str
    recipe: str
    settings: str
    """The recipe without seed and paths: equal for runs that differ only in the seed."""
    seed: int | None
    cure: str | None
    """none, dampen or freeze."""
    finished: bool
    steps: int
    momentum: float | None = None
    network: str | None = None
    """Name of the network."""
    scheme: KeptScheme | None = None
    """Bits that the recipe asks for; None without a recipe."""
    shipped: ShippedFile | None = None
    """Size and time of the exported file, if they were measured."""
    facts: dict[str, str] = field(default_factory=dict)
    """Network, bits, data, size and latency, as texts by the header of their column."""
    cut: float = 0.005
    """Frequency above which a weight oscillates."""
    near: float = 0.01
    """Distance from a threshold, in codes, that counts as near in `near_threshold` of a layer."""
    low_bits: int | None
    """Largest number of bits of the layers in the headline."""
    top1_float: float | None = None
    """Top-1 of the float network."""
    top1_rounded: float | None = None
    """Top-1 after calibration, before training."""
    top1: Accuracy
    """Final top-1."""
    metric: float | None = None
    """Score of the final network by the metric of the recipe."""
    train_loss: float | None
    """Cross-entropy of the last epoch."""
    batchnorm_loss: Accuracy = Accuracy()
    """Final training loss."""
    oscillating: float | None
    """Share of low-bit weights that oscillate."""
    oscillating_depthwise: float | None = None
    """Share of low-bit depth-wise weights that oscillate."""
    frozen: float | None
    """Share of low-bit weights that are frozen."""
    target: SteeredShare | None = None
    """What a cure with a target for the oscillating share has done."""
    layers: tuple[DiagnosedLayer, ...] = ()
    batchnorms: tuple[DiagnosedNorm, ...] = ()
    curves: dict[str, Series] = field(default_factory=dict)
    """Columns of metrics.csv."""
    over_time: LayersOverTime | None = None
    batchnorm_curves: dict[str, Series] = field(default_factory=dict)
    """Mean KL per step, for depth-wise layers and for the others."""
    batchnorm_losses: dict[str, Series] = field(default_factory=dict)
    """Columns of batchnorm_loss.csv."""
    trajectories: Trajectories | None = None
    probe: ProbeFile | None = None
    """None if no weight oscillated."""
    data: dict[str, object] | None = None
    """Identity of the test images."""
    diagnosed: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def too_few_steps(self) -> bool:
        """Whether the frequencies are still so near their initial value that 0 is inconclusive."""
        return self.momentum is not None and self.steps < steps_needed(self.momentum)

    @property
    def low_bit_layers(self) -> tuple[DiagnosedLayer, ...]:
        """The layers of the headline."""
        return tuple(layer for layer in self.layers if self._is_low_bit(layer))

    @property
    def other_layers(self) -> tuple[DiagnosedLayer, ...]:
        """The layers with more bits, usually the first and the last."""
        return tuple(layer for layer in self.layers if not self._is_low_bit(layer))

    def _is_low_bit(self, layer: DiagnosedLayer) -> bool:
        low = self.low_bits
        return low is None or (layer.bits is not None and layer.bits <= low)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One or more runs that differ only in the seed."""

    label: str
    runs: tuple[Run, ...]
    variant: str = ""
    fields: dict[str, object] = field(default_factory=dict)
    """The fields that a sweep set."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The runs of a page, in one or more groups."""

    title: str
    groups: tuple[Group, ...]
    swept: tuple[str, ...] = ()
    """Fields of the recipe that a sweep varied."""
    missing: tuple[str, ...] = ()
    """Runs of the sweep that have not started."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)
