"""The content of the JSON files of a run and of a sweep, as structs for writing and reading.

docs/run-folder.md explains the fields. A field with a default may be missing in a file.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from quiesce.files.untrusted.typed_trees import with_lists

VERSION = 1
"""Newest readable version of all these files and of recipe.yaml."""

Count = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""A whole number that a float holds exactly, so that a chart can show it."""

Momentum = Annotated[float, Meta(gt=0, lt=1)]
"""Weight of the newest step in a frequency."""

Few = Meta(max_length=20_000)
"""Layers or batch norms; each is a row of a table on the page."""


class File(Struct, frozen=True, kw_only=True):
    """A file with a version."""

    version: int = VERSION

    def tree(self) -> dict[str, Any]:
        """Return the content as nested dicts and lists."""
        return with_lists(msgspec.to_builtins(self))


class Shares(Struct, frozen=True, kw_only=True):
    """Counts, and shares from 0 to 1, over the weights of some layers; None if there are none."""

    weights: Count = 0
    flips_per_step: float = 0.0
    oscillating: float | None = None
    frozen: float | None = None
    transition_rate: float | None = None


class LayerNumbers(Struct, frozen=True, kw_only=True):
    """The fields of `quiesce.LayerReport`."""

    name: str
    weights: Count
    bits: Count | None
    oscillating: float
    frozen: float
    flips_per_step: float
    locked: float = 0.0
    total_oscillations: Count = 0
    total_grid_changes: Count | None = None
    distance_ratio: float | None = None
    transition_rate: float | None = None


class SummarizedLayer(LayerNumbers, frozen=True, kw_only=True):
    """A layer in summary.json."""

    depthwise: bool


class Oscillation(Struct, frozen=True, kw_only=True):
    """The section `oscillation` of summary.json."""

    cut: float = 0.005
    momentum: Momentum | None = None
    low_bits: Count | None = None
    low_bit: Shares
    low_bit_depthwise: Shares
    every_bit: Shares = Shares()
    layers: Annotated[tuple[SummarizedLayer, ...], Few] = ()


class Divergence(Struct, frozen=True, kw_only=True):
    """KL over the channels of a batch norm, in nats."""

    mean: float
    max: float


class Metric(Struct, frozen=True, kw_only=True):
    """The section `metric` of summary.json."""

    name: str
    """The function of the user, "module:name"."""
    scores: dict[str, float | None] = {}
    """Scores of the states of `top1_percent`."""
    final: float | None = None
    """Score of the final network."""


class SteeredShare(Struct, frozen=True, kw_only=True):
    """The report of a cure with a target, one of `cures` in summary.json."""

    target: float
    share_begin: float | None = None
    share_end: float | None = None
    reached: bool = False
    steered: str = ""


class Summary(File, frozen=True, kw_only=True):
    """summary.json."""

    name: str
    seed: int
    top1_percent: dict[str, float | None]
    metric: Metric | None = None
    train_loss: float | None
    steps: Count = 0
    seconds: dict[str, float] = {}
    seconds_per_step: float | None = None
    size_bytes: Count | None = None
    oscillation: Oscillation
    cures: tuple[dict[str, Any], ...] = ()
    batchnorm_kl: Annotated[dict[str, Divergence], Few] = {}
    versions: dict[str, str] = {}


class OffsetCounts(Struct, frozen=True, kw_only=True):
    """Counts of weights between edges; there is one more edge than counts."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    def __post_init__(self) -> None:
        _check_counts(self.counts, len(self.edges) - 1)


class CodeCounts(Struct, frozen=True, kw_only=True):
    """Weights per code."""

    code: tuple[Count, ...]
    counts: tuple[Count, ...]

    def __post_init__(self) -> None:
        _check_counts(self.counts, len(self.code))


def _check_counts(counts: tuple[int, ...], expected: int) -> None:
    if len(counts) != expected:
        raise ValueError(f"`counts` must be {expected} numbers, got {len(counts)}")


class DiagnosedLayer(LayerNumbers, frozen=True, kw_only=True):
    """A layer in diagnosis.json."""

    kind: str
    frequency_quantiles: dict[str, float] = {}
    near_threshold: float | None = None
    clipped: float | None = None
    offsets: OffsetCounts | None = None
    codes: CodeCounts | None = None


class DiagnosedNorm(Struct, frozen=True, kw_only=True):
    """A batch norm in diagnosis.json."""

    name: str
    feeds_from: str | None = None
    kind: str
    channels: Count = 0
    kl_mean: float
    kl_max: float
    kl_quantiles: dict[str, float] = {}


class Accuracy(Struct, frozen=True, kw_only=True):
    """The section `accuracy` of diagnosis.json."""

    top1_percent: dict[str, float | None] = {}
    train_loss: dict[str, float | None] = {}


class DiagnosisFile(File, frozen=True, kw_only=True):
    """diagnosis.json."""

    step: Count = 0
    finished: bool = True
    cut: float = 0.005
    near: float = 0.01
    momentum: Momentum | None = None
    low_bits: Count | None = None
    """Only from `quiesce.record`: most frequent number of bits between first and last layer."""
    network: str | None = None
    """Only from `quiesce.record`: the name that its caller gave the network."""
    float_top1_percent: float | None = None
    """Only from `quiesce.record`: top-1 of the float network."""
    layers: Annotated[tuple[DiagnosedLayer, ...], Few]
    batchnorm: Annotated[tuple[DiagnosedNorm, ...], Few] = ()
    accuracy: Accuracy = Accuracy()


class Scored(Struct, frozen=True, kw_only=True):
    """Training loss and test accuracy of a network in probe.json."""

    loss: float
    top1_percent: float


class Learned(Scored, frozen=True, kw_only=True):
    """The network with learned codes in probe.json."""

    changed: Count | None = None
    steps: Count = 0


class Spread(Struct, frozen=True, kw_only=True):
    """A number over the sampled networks of probe.json."""

    mean: float
    std: float
    best: float


class Sampled(Struct, frozen=True, kw_only=True):
    """The sampled networks of probe.json."""

    loss: Spread | None = None
    top1_percent: Spread | None = None
    each: tuple[tuple[float, float], ...]


class ProbeFile(File, frozen=True, kw_only=True):
    """probe.json; `before`, `sampled` and `learned` are None if no weight oscillates."""

    weights: Count
    step: Count = 0
    momentum: Momentum | None = None
    samples: Count
    before: Scored | None = None
    sampled: Sampled | None = None
    learned: Learned | None = None


class SweptRun(Struct, frozen=True, kw_only=True):
    """A run in sweep.json."""

    folder: str
    """Name of the run inside the folder of the sweep."""
    variant: str | UnsetType = UNSET
    fields: dict[str, Any] = {}
    seed: int | None = None

    def __post_init__(self) -> None:
        name = self.folder
        if name in ("", ".", "..") or "\0" in name or name != PurePosixPath(name).name:
            raise ValueError(f"`folder` must be a name without slashes, got {self.folder!r:.60}")


class SweepFile(File, frozen=True, kw_only=True):
    """sweep.json."""

    name: str = ""
    recipe: str = ""
    variants: dict[str, dict[str, Any]] = {}
    set: dict[str, list[Any]] = {}
    seeds: tuple[int, ...] = ()
    baseline: str | None = None
    runs: tuple[SweptRun, ...]


class TuneFile(File, frozen=True, kw_only=True):
    """tune.json."""

    id: str
    """Name of the folder, unique among the folders of all workers of a study."""
    seeds: tuple[int, ...]
    """The seeds of each try."""


class KeptData(Struct, frozen=True, kw_only=True):
    """The fields of `data` in recipe.yaml that identify the test images."""

    name: str | None = None
    folder: str | None = None
    hub: str | None = None
    test_split: str | None = None
    test_shards: str | None = None
    vendors: tuple[str, ...] | None = None
    image_size: Count | None = None
    classes: Count | None = None
    train_images: Count | None = None
    test_images: Count | None = None
    channels: Count | None = None


class KeptScheme(Struct, frozen=True, kw_only=True):
    """The bits in recipe.yaml."""

    weight_bits: Count | None = None
    act_bits: Count | None = None
    first_last_bits: Count | None = None


class KeptCure(Struct, frozen=True, kw_only=True):
    """The cure in recipe.yaml."""

    kind: Literal["none", "dampen", "freeze", "trs", "osci_reset", "q_ramping", "cga"] = "none"


class KeptModel(Struct, frozen=True, kw_only=True):
    """The network of recipe.yaml, and its initial weights."""

    name: str | None = None
    weights: str | None = None


class KeptFloatStage(Struct, frozen=True, kw_only=True):
    """The float stage of recipe.yaml."""

    epochs: Count | None = None


class KeptTracker(Struct, frozen=True, kw_only=True):
    """The tracker of recipe.yaml."""

    momentum: Momentum | None = None


class KeptTrainer(Struct, frozen=True, kw_only=True):
    """The length of the training in recipe.yaml."""

    max_epochs: Count | None = None


class KeptRecipe(File, frozen=True, kw_only=True):
    """The fields of recipe.yaml that comparisons and reports read; `quiesce.recipes` has all."""

    name: str | None = None
    seed: int | None = None
    data: KeptData = KeptData()
    scheme: KeptScheme = KeptScheme()
    cure: KeptCure = KeptCure()
    model: KeptModel = KeptModel()
    float_stage: KeptFloatStage = KeptFloatStage()
    tracker: KeptTracker = KeptTracker()
    trainer: KeptTrainer = KeptTrainer()


class ShippedFile(File, frozen=True, kw_only=True):
    """shipped.json: an exported file and its float network, with times per image."""

    verified: bool = False
    images: Count = 0
    right: Count = 0
    """Images that the exported file classifies correctly."""
    bytes: Count | None = None
    float_bytes: Count | None = None
    milliseconds: float | None = None
    float_milliseconds: float | None = None
    timed_on: str = ""
    """Runtime, threads and processor of the times."""
