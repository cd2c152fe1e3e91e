"""The sections of a recipe: frozen dataclasses, checked when made.

The text under a field is its documentation everywhere: `quiesce train RECIPE --help` prints it.
Steps are optimizer steps. Shares of the training run from 0 (first step) to 1 (last step).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from quiesce.recipes.estimator_section import EstimatorConfig

if TYPE_CHECKING:
    from quiesce.quantization.scheme import Scheme


def check(ok: bool, name: str, rule: str, got: object) -> None:
    """Raise the ValueError of a bad field: "`lr` must be above 0, got -1"."""
    if not ok:
        raise ValueError(f"`{name}` must be {rule}, got {got}")


@dataclass(frozen=True, kw_only=True)
class SchemeConfig:
    """What is quantized, and to how many bits; the fields of quiesce.Scheme."""

    weight_bits: int = 4
    """Bits of the weights, 2 to 8."""

    act_bits: int | None = 4
    """Bits of the layers' inputs, 2 to 8; null keeps activations in float."""

    first_last_bits: int | None = 8
    """Bits of the first and the last layer, 2 to 8; null treats them as the others."""

    first_input_bits: int | None = None
    """Bits of the image, 2 to 8; null keeps it in float."""

    per_channel: bool = False
    """One weight scale for each output channel instead of one for each tensor."""

    ranges: Literal["mse", "minmax", "percentile", "lsq"] = "mse"
    """How first scales are found: least squared error, extremes, percentile, or LSQ's rule."""

    clip: Literal["range", "grid", "round"] = "range"
    """Where weights get a gradient: between the ends of the grid (as papers write); grid: half a
    code beyond them; round: only where the rounded value is none of the ends."""

    grad_scaling: bool = False
    """Scale the gradients of scales by LSQ's 1/sqrt(N * quant_max)."""

    learn_offset: bool = False
    """Learn the value of code 0 of every layer's input too (LSQ+)."""

    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Rounding of the weights."""

    act_estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Rounding of the layers' inputs; hysteresis is for weights alone."""

    residual: Literal["float", "quantized"] = "float"
    """Additions of activations: float, or their operands on grids of act_bits too."""

    include: tuple[str, ...] = ("*",)
    """Patterns of layer names to quantize, as a shell matches files: "blocks.*"."""

    exclude: tuple[str, ...] = ()
    """Patterns of layer names to leave in float."""

    overrides: dict[str, dict[str, int | bool | str | None]] = field(default_factory=dict)
    """Pattern of layer names to what differs there: {"blocks.0.*": {"weight_bits": 8}}."""

    def __post_init__(self) -> None:
        self.scheme()

    def scheme(self) -> Scheme:
        """Return the quiesce.Scheme, which checks its fields."""
        from quiesce.quantization.scheme import (
            Scheme,  # here: it brings in torch, and help need not wait
        )

        given = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("estimator", "act_estimator"):
            given[name] = given[name].estimator()
        return Scheme(**given)


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Finding the first scales on real images."""

    batches: int = 1
    """Training batches that are read before the first step, at least 1."""

    def __post_init__(self) -> None:
        check(self.batches >= 1, "batches", "at least 1", self.batches)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Measuring oscillation."""

    momentum: float = 0.01
    """Weight of the newest step in the oscillation frequency, above 0 and below 1."""

    verify_every: int | None = None
    """Optimizer steps between two comparisons of what the processes of a run hold, at least 1; the
    run stops where they part. null compares nothing."""

    def __post_init__(self) -> None:
        check(0 < self.momentum < 1, "momentum", "above 0 and below 1", self.momentum)
        every = self.verify_every
        check(every is None or every >= 1, "verify_every", "at least 1, or null", every)


@dataclass(frozen=True, kw_only=True)
class RampConfig:
    """A number that changes over the training."""

    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the way from `start` to `end`; constant stays at `start`."""

    start: float = 0.0
    """Value at the beginning."""

    end: float = 0.0
    """Value at the last step; constant does not read it."""

    begin: float = 0.25
    """Share of the training before the way starts, 0 to below 1."""

    def __post_init__(self) -> None:
        if self.begin >= 1:
            raise ValueError(
                f"`begin` must be 0 to below 1, got {self.begin}: the training ends at 1, before "
                "the schedule begins"
            )
        check(self.begin >= 0, "begin", "0 to below 1", self.begin)


DAMPEN_FIELDS = ("strength", "aggregation")
FREEZE_FIELDS = ("threshold", "average", "max_bits", "max_frozen")


@dataclass(frozen=True, kw_only=True)
class CureConfig:
    """What brings oscillating weights to rest."""

    kind: Literal["none", "dampen", "freeze"] = "none"
    """none (plain LSQ), dampen (a penalty on the distance to the grid) or freeze (pinned codes)."""

    strength: RampConfig = RampConfig(end=0.1)
    """dampen: factor of the penalty in the loss, 0 or more."""

    aggregation: Literal["sum", "mean", "kernel_mean"] = "kernel_mean"
    """dampen: how squared distances are joined in each layer; sum is the paper's formula,
    kernel_mean (sum over output channels, mean over the rest) the published recipes'."""

    threshold: RampConfig = RampConfig(start=0.1, end=0.01)
    """freeze: oscillation frequency above which a weight is frozen, above 0 and at most 1."""

    average: Literal["code", "last"] = "code"
    """freeze: pin to the rounded running average of the code, or to the last code."""

    max_bits: int = 4
    """freeze: only weights of at most this many bits, 2 to 8."""

    max_frozen: float | None = 0.6
    """freeze: largest share of a layer's weights that may come to be frozen, above 0 and below 1;
    beyond it the run stops, null lets it go on."""

    def __post_init__(self) -> None:
        for name in self._unread():
            reader = "dampen" if name in DAMPEN_FIELDS else "freeze"
            raise ValueError(
                f"`{name}` is read by kind {reader} and kind is {self.kind}: leave it out, or "
                f"set kind: {reader}"
            )
        for end in ("start", "end"):
            level = getattr(self.strength, end)
            check(level >= 0, f"strength.{end}", "0 or more", level)
            level = getattr(self.threshold, end)
            check(0 < level <= 1, f"threshold.{end}", "above 0 and at most 1", level)
        check(2 <= self.max_bits <= 8, "max_bits", "2 to 8", self.max_bits)
        most = self.max_frozen
        check(most is None or 0 < most < 1, "max_frozen", "above 0 and below 1, or null", most)

    def _unread(self) -> list[str]:
        """Fields that were set although this kind does not read them."""
        others = () if self.kind == "dampen" else DAMPEN_FIELDS
        others += () if self.kind == "freeze" else FREEZE_FIELDS
        return [name for name in others if getattr(self, name) != getattr(type(self), name)]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer of torch.optim."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    """Which optimizer."""

    lr: float = 0.01
    """Learning rate at the first step, above 0."""

    momentum: float = 0.9
    """sgd: momentum, 0 to below 1; adam and adamw: the first beta (their second is 0.999)."""

    weight_decay: float = 0.0
    """Weight decay, 0 or more."""

    nesterov: bool = False
    """sgd: Nesterov momentum."""

    def __post_init__(self) -> None:
        check(self.lr > 0, "lr", "above 0", self.lr)
        check(0 <= self.momentum < 1, "momentum", "0 to below 1", self.momentum)
        check(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        if self.nesterov and (self.kind != "sgd" or self.momentum == 0):
            raise ValueError("`nesterov` needs kind sgd and a momentum above 0")


@dataclass(frozen=True, kw_only=True)
class LrScheduleConfig:
    """How learning rates change, of weights and of scales alike."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the way down."""

    end: float = 0.0
    """Learning rate at the last step as a share of the first, 0 to 1; constant does not read it."""

    warmup: float = 0.0
    """Share of the training in which the rate rises to its first value, 0 to below 1."""

    def __post_init__(self) -> None:
        check(0 <= self.end <= 1, "end", "0 to 1", self.end)
        check(0 <= self.warmup < 1, "warmup", "0 to below 1", self.warmup)


@dataclass(frozen=True, kw_only=True)
class FloatStageConfig:
    """A float network that is trained first, on the same data; the quantized one starts from it."""

    epochs: int | None = None
    """Passes over the training images, at least 1; null skips the stage."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the float stage; its learning rate follows `lr_schedule` too."""

    def __post_init__(self) -> None:
        check(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)


@dataclass(frozen=True, kw_only=True)
class BatchNormConfig:
    """Batch-norm statistics, measured again when training is over."""

    batches: int | None = 50
    """Training batches to average over, at least 1; null leaves the running statistics."""

    def __post_init__(self) -> None:
        check(self.batches is None or self.batches >= 1, "batches", "at least 1", self.batches)


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """What is written down while the quantized network trains, for `quiesce report`."""

    layers: int = 200
    """Steps at which the state of every layer goes to layers.csv, evenly spread, 0 or more."""

    histograms: int = 20
    """Steps at which TensorBoard gets the offset histogram of every layer, 0 or more."""

    averages: bool = True
    """Follow the average of codes of the layers with the bits of the scheme or fewer, which
    `quiesce probe` draws from: 4 bytes a weight."""

    batchnorm_every: int | None = None
    """Steps between two measurements of batch-norm statistics, KL and loss, at least 1; null never
    measures them. Training is not disturbed, only slower."""

    batchnorm_batches: int = 8
    """Training batches that are measured on, always the same; kept in memory. At least 1."""

    trajectory_steps: int = 300
    """Steps through which single weights are followed in trajectories.npz, 0 or more."""

    trajectory_begin: int | None = None
    """Step after which they are followed; null: the last `trajectory_steps`, in the second half."""

    trajectory_layer: str | None = None
    """Layer they are of; null: the depth-wise layer that oscillates most at that moment, or any
    layer if no depth-wise one oscillates."""

    trajectory_weights: int = 16
    """How many weights, those that oscillate most at that moment, at least 1."""

    def __post_init__(self) -> None:
        for name in ("layers", "histograms", "trajectory_steps"):
            check(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("batchnorm_batches", "trajectory_weights"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        every, begin = self.batchnorm_every, self.trajectory_begin
        check(every is None or every >= 1, "batchnorm_every", "at least 1", every)
        check(begin is None or begin >= 0, "trajectory_begin", "0 or more", begin)

    def window(self, total: int) -> tuple[int, int]:
        """Return the first and the last step of the trajectories, of `total` steps; 1 is first."""
        begin = self.trajectory_begin
        if begin is None:
            begin = max(total - self.trajectory_steps, total // 2)
        return begin + 1, begin + self.trajectory_steps
