"""The sections of a recipe: frozen dataclasses that check their values.

The text under a field is its documentation everywhere: `quiesce train RECIPE --help` prints it.
Steps are optimizer steps. A share of the training is between 0 (start) and 1 (end).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from quiesce.recipes.estimator_section import EstimatorConfig

if TYPE_CHECKING:
    from quiesce.quantization.scheme import Scheme


def check(ok: bool, name: str, rule: str, got: object) -> None:
    """Raise a ValueError if a field is invalid: "`lr` must be above 0, got -1"."""
    if not ok:
        raise ValueError(f"`{name}` must be {rule}, got {got}")


@dataclass(frozen=True, kw_only=True)
class SchemeConfig:
    """Which layers are quantized, and to how many bits: the fields of quiesce.Scheme."""

    weight_bits: int = 4
    """Bits of the weights, 2 to 8."""
    weight_levels: Literal["fp4", "ternary", "binary"] | tuple[float, ...] | None = None
    """Levels of the weights instead of integers: fp4, ternary, binary, or ascending numbers."""
    act_bits: int | None = 4
    """Bits of the layers' inputs, 2 to 8; null keeps activations in float."""
    first_last_bits: int | None = 8
    """Bits of the first and the last layer, 2 to 8; null uses the same bits as elsewhere."""
    first_input_bits: int | None = None
    """Bits of the input image, 2 to 8; null keeps it in float."""
    per_channel: bool = False
    """Use one weight scale per output channel instead of one per tensor."""
    group_size: int | None = None
    """Use one weight scale per so many inputs of a linear layer; null for no groups."""
    scale_dtype: Literal["float32", "float16", "bfloat16", "e8m0"] = "float32"
    """Number format of the weight scales, which are always exactly representable in it."""
    ranges: Literal["mse", "minmax", "percentile", "lsq"] = "mse"
    """How initial scales are found: least squared error, extremes, percentile, or LSQ's rule."""
    clip: Literal["range", "grid", "round"] = "range"
    """Which weights get a gradient. range: those within the ends of the grid, as in papers; grid:
    also half a code beyond them; round: only those whose rounded value is not an end."""
    grad_scaling: bool = False
    """Scale the gradients of scales by LSQ's 1/sqrt(N * quant_max)."""
    learn_offset: bool = False
    """Also learn the value of code 0 of every layer's input (LSQ+)."""
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Estimator for the rounding of weights."""
    act_estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Estimator for the rounding of the layers' inputs; the last two are only for weights."""
    residual: Literal["float", "quantized"] = "float"
    """Additions of activations: float, or with operands quantized to act_bits."""
    residual_include: tuple[str, ...] = ("*",)
    """Shell-style patterns of modules whose additions to quantize, if residual is quantized."""
    residual_exclude: tuple[str, ...] = ()
    """Shell-style patterns of modules whose additions to keep in float."""
    include: tuple[str, ...] = ("*",)
    """Shell-style patterns of layer names to quantize: "blocks.*"."""
    exclude: tuple[str, ...] = ()
    """Shell-style patterns of layer names to keep in float."""
    overrides: dict[str, dict[str, int | bool | str | tuple[float, ...] | None]] = field(
        default_factory=dict
    )
    """Other values for layers that match a pattern: {"blocks.0.*": {"weight_bits": 8}}."""

    def __post_init__(self) -> None:
        self.scheme()

    def scheme(self) -> Scheme:
        """Return the quiesce.Scheme, which checks its fields."""
        from quiesce.quantization.scheme import (
            Scheme,  # imported here because it loads torch, which help does not need
        )

        given = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("estimator", "act_estimator"):
            given[name] = given[name].estimator()
        return Scheme(**given)


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How initial scales are calibrated on training images."""

    batches: int = 1
    """Training batches to calibrate on, at least 1."""

    def __post_init__(self) -> None:
        check(self.batches >= 1, "batches", "at least 1", self.batches)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """How oscillation is measured."""

    momentum: float | None = None
    """Weight of the newest step in the oscillation frequency, above 0 and below 1. null: 0.01, or
    with cure.target 15 / steps, at least 0.001 and at most 0.05."""
    verify_every: int | None = None
    """Optimizer steps between two checks that all processes hold the same weights, at least 1; the
    run stops if they differ. null never checks."""

    def __post_init__(self) -> None:
        momentum = self.momentum
        fits = momentum is None or 0 < momentum < 1
        check(fits, "momentum", "above 0 and below 1, or null", momentum)
        every = self.verify_every
        check(every is None or every >= 1, "verify_every", "at least 1, or null", every)


@dataclass(frozen=True, kw_only=True)
class RampConfig:
    """A number that changes during the training."""

    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the change from `start` to `end`; constant stays at `start`."""
    start: float = 0.0
    """Value at the beginning."""
    end: float = 0.0
    """Value at the last step; not used by constant."""
    begin: float = 0.25
    """Share of the training before the change starts, 0 to below 1."""

    def __post_init__(self) -> None:
        if self.begin >= 1:
            raise ValueError(
                f"`begin` must be 0 to below 1, got {self.begin}: the training ends at 1, before "
                "the schedule begins"
            )
        check(self.begin >= 0, "begin", "0 to below 1", self.begin)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer from torch.optim."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    """Which optimizer."""
    lr: float = 0.01
    """Learning rate at the first step, above 0."""
    momentum: float = 0.9
    """sgd: momentum, 0 to below 1; adam and adamw: the first beta (their second is 0.999)."""
    weight_decay: float = 0.0
    """Weight decay, 0 or more."""
    nesterov: bool = False
    """sgd: use Nesterov momentum."""

    def __post_init__(self) -> None:
        check(self.lr > 0, "lr", "above 0", self.lr)
        check(0 <= self.momentum < 1, "momentum", "0 to below 1", self.momentum)
        check(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        if self.nesterov and (self.kind != "sgd" or self.momentum == 0):
            raise ValueError("`nesterov` needs kind sgd and a momentum above 0")


@dataclass(frozen=True, kw_only=True)
class LrScheduleConfig:
    """How the learning rates of weights and scales change."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the decay."""
    end: float = 0.0
    """Learning rate at the last step relative to the first, 0 to 1; not used by constant."""
    warmup: float = 0.0
    """Share of the training with a linear warm-up, 0 to below 1."""

    def __post_init__(self) -> None:
        check(0 <= self.end <= 1, "end", "0 to 1", self.end)
        check(0 <= self.warmup < 1, "warmup", "0 to below 1", self.warmup)


@dataclass(frozen=True, kw_only=True)
class FloatStageConfig:
    """Training of the float network that the quantized network starts from."""

    epochs: int | None = None
    """Epochs, at least 1; null skips this stage."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the float stage."""
    lr_decay: Literal["same", "constant", "linear", "cosine"] = "same"
    """Learning rate of the float stage. same: follows `lr_schedule`; linear and cosine: decay to 0.
    With another value than same, quantized networks with other schedules can share the float
    network."""

    def __post_init__(self) -> None:
        check(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)

    def lr_schedule(self, same: LrScheduleConfig) -> LrScheduleConfig:
        """Return the schedule of the float stage, where `same` is that of the recipe."""
        return same if self.lr_decay == "same" else LrScheduleConfig(kind=self.lr_decay)


@dataclass(frozen=True, kw_only=True)
class BatchNormConfig:
    """Re-estimation of batch-norm statistics after training."""

    batches: int | None = 50
    """Training batches to average over, at least 1; null keeps the running statistics."""

    def __post_init__(self) -> None:
        check(self.batches is None or self.batches >= 1, "batches", "at least 1", self.batches)


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """What is recorded while the quantized network trains, for `quiesce report`."""

    layers: int = 200
    """How often the state of every layer is written to layers.csv, evenly spread, 0 or more."""
    histograms: int = 20
    """How often TensorBoard gets the offset histogram of every layer, 0 or more."""
    averages: bool = True
    """Record the average codes of low-bit layers, which `quiesce probe` needs. It takes 4 bytes per
    weight."""
    batchnorm_every: int | None = None
    """Steps between two measurements of batch-norm statistics, KL and loss, at least 1; null never
    measures them. They slow training down but do not change it."""
    batchnorm_batches: int = 8
    """Training batches for these measurements, at least 1. They are kept in memory."""
    trajectory_steps: int = 300
    """Steps for which single weights are recorded in trajectories.npz, 0 or more."""
    trajectory_begin: int | None = None
    """Step after which they are recorded; null takes the last `trajectory_steps` of the run."""
    trajectory_layer: str | None = None
    """Layer of these weights; null takes the depth-wise layer that oscillates most at that moment,
    or any layer if no depth-wise layer oscillates."""
    trajectory_weights: int = 16
    """Number of weights, at least 1; those that oscillate most at that moment."""

    def __post_init__(self) -> None:
        for name in ("layers", "histograms", "trajectory_steps"):
            check(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("batchnorm_batches", "trajectory_weights"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        every, begin = self.batchnorm_every, self.trajectory_begin
        check(every is None or every >= 1, "batchnorm_every", "at least 1", every)
        check(begin is None or begin >= 0, "trajectory_begin", "0 or more", begin)

    def window(self, total: int) -> tuple[int, int]:
        """Return the first and the last step of the trajectories among `total` steps, from 1."""
        begin = self.trajectory_begin
        if begin is None:
            begin = max(total - self.trajectory_steps, total // 2)
        return begin + 1, begin + self.trajectory_steps
