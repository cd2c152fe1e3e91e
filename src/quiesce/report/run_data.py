"""The data of the page, from whatever file they come.

Shares are from 0 to 1, accuracies in percent, KL in nats, steps are optimizer steps.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quiesce.run_folder.contents import DiagnosedLayer, DiagnosedNorm

DEPTHWISE = "depth-wise"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A number over the steps at which it was recorded."""

    steps: np.ndarray
    """Shape (points,), rising."""
    values: np.ndarray
    """Shape (points,)."""


@dataclass(frozen=True, kw_only=True)
class LayersOverTime:
    """Oscillating share of each layer over the steps of training."""

    layers: tuple[str, ...]
    """Names, in the order of the file."""
    steps: np.ndarray
    """Shape (steps,)."""
    oscillating: np.ndarray
    """Shape (layers, steps); NaN where nothing was recorded."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Some weights of one layer, step by step."""

    layer: str
    steps: np.ndarray
    """Shape (steps,)."""
    index: np.ndarray
    """Shape (weights,): indices in the flattened weight of the layer."""
    position: np.ndarray
    """Shape (steps, weights): latent weight divided by scale, so in codes."""
    code: np.ndarray
    """Shape (steps, weights)."""
    frequency: np.ndarray
    """Shape (steps, weights)."""
    quant_min: int
    quant_max: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The loss caused by the final codes of oscillating weights."""

    weights: int
    """Number of oscillating weights."""
    samples: int
    """Number of sampled networks."""
    before: tuple[float, float]
    """Training loss and top-1 of the trained network."""
    drawn: np.ndarray
    """Shape (samples, 2): training loss and top-1 of each sampled network."""
    learned: tuple[float, float] | None
    """Training loss and top-1 with learned codes."""
    changed: int | None
    """Number of codes that learning changed."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One measure with the two kinds of batch-norm statistics."""

    running: float | None = None
    reestimated: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything about a run; None or empty where the folder has no file about it."""

    folder: Path
    title: str
    """Its name on the page."""
    recipe: str
    """Name of the recipe."""
    settings: str
    """The recipe without seed and paths: equal for runs that differ only in their seed."""
    seed: int | None
    cure: str | None
    """none, dampen or freeze."""
    finished: bool
    steps: int
    """Optimizer steps so far."""
    cut: float = 0.005
    """Frequency above which a weight oscillates."""
    near: float = 0.01
    """Distance from a threshold, in codes, that `near_threshold` of a layer means."""
    low_bits: int | None
    """Largest number of bits of the layers that the headline is about."""
    top1_float: float | None = None
    """Top-1 of the float network."""
    top1_rounded: float | None = None
    """Top-1 after calibration, before training."""
    top1: Accuracy
    """Top-1 at the end."""
    train_loss: float | None
    """Cross-entropy in the last epoch."""
    batchnorm_loss: Accuracy = Accuracy()
    """Training loss at the end."""
    oscillating: float | None
    """Share of low-bit weights."""
    oscillating_depthwise: float | None = None
    """Share of low-bit depth-wise weights."""
    frozen: float | None
    """Share of low-bit weights."""
    layers: tuple[DiagnosedLayer, ...] = ()
    batchnorms: tuple[DiagnosedNorm, ...] = ()
    curves: dict[str, Series] = field(default_factory=dict)
    """Columns of metrics.csv."""
    over_time: LayersOverTime | None = None
    planned_bits: dict[str, int] = field(default_factory=dict)
    """Bits of each layer by the recipe, used while `layers` is empty."""
    batchnorm_curves: dict[str, Series] = field(default_factory=dict)
    """Mean KL over the steps, of depth-wise layers and of the others."""
    batchnorm_losses: dict[str, Series] = field(default_factory=dict)
    """Columns of batchnorm_loss.csv."""
    trajectories: Trajectories | None = None
    probe: Probe | None = None
    data: dict[str, object] | None = None
    """Which images it classifies."""
    diagnosed: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def low_bit_layers(self) -> tuple[DiagnosedLayer, ...]:
        """The layers that the headline is about."""
        low = self.low_bits
        return tuple(
            layer
            for layer in self.layers
            if low is None or (layer.bits is not None and layer.bits <= low)
        )


@dataclass(frozen=True, kw_only=True)
class Group:
    """One or more runs that differ only in their seed."""

    label: str
    """Its name on the page."""
    runs: tuple[Run, ...]
    variant: str = ""
    """Name of the variant in a sweep."""
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
    """Runs of the sweep that have not begun."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)
