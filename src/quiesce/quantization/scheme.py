"""Quantization schemes: the layers to quantize, their bits and their ranges."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.fake_quantize import Clip, check_clip
from quiesce.arithmetic.grid import Grid, check_bits
from quiesce.arithmetic.levels import Codebook
from quiesce.arithmetic.ranges import Range, check_range
from quiesce.arithmetic.scale_formats import ScaleFormat, check_scale_format
from quiesce.errors import PrepareError, did_you_mean

Residual = Literal["float", "quantized"]


@dataclass(frozen=True, kw_only=True)
class LayerScheme:
    """The quantization scheme of one layer; `Scheme.overrides` can set its fields."""

    weight_bits: int
    """Bits of the codes of the weight, 2 to 8."""
    act_bits: int | None
    """Bits of the codes of the input, 2 to 8, or None for a float input."""
    per_channel: bool
    """Use one weight scale per output channel instead of one per tensor."""
    ranges: Range
    """Method for the initial scales, one of `quiesce.arithmetic.ranges.RANGES`."""
    group_size: int | None = None
    """Number of inputs of a linear layer that share a weight scale, or None for no groups."""
    scale_dtype: ScaleFormat = "float32"
    """Number format of the weight scales."""
    weight_levels: Codebook | Sequence[float] | None = None
    """Levels of the weights, or None for the integers of `weight_bits`."""

    def __post_init__(self) -> None:
        if self.weight_levels is None:
            check_bits("weight_bits", self.weight_bits)
        _ = self.grid  # checks the levels
        check_scale_format(self.scale_dtype)
        size = self.group_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 2):
            raise ValueError(f"group_size must be an integer, 2 or more, or None, got {size!r}")
        if self.act_bits is not None:
            check_bits("act_bits", self.act_bits)
        check_range(self.ranges)

    @property
    def grid(self) -> Grid:
        """The grid of the weight."""
        if self.weight_levels is None:
            return Grid(self.weight_bits, signed=True)
        return Grid.of_levels(self.weight_levels)

    def changed(self, changes: Mapping[str, Any]) -> "LayerScheme":
        """Return the scheme with other fields; bits without levels mean integers."""
        integers = {"weight_levels": None} if "weight_bits" in changes else {}
        return replace(self, **{**integers, **changes})


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The quantization scheme of a model. Patterns are shell patterns of module names (fnmatch).

    Raises:
        ValueError, TypeError: A field is out of range, or an override has an unknown field.

    Examples:
        >>> scheme = qs.Scheme(weight_bits=3, act_bits=None, overrides={"1": {"weight_bits": 4}})
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(3)])
        >>> _ = qs.prepare(model, scheme, x)
        >>> [weight.grid.bits for weight in qs.quantized_weights(model)]
        [8, 4, 8]
    """

    weight_bits: int = 4
    """Bits of the codes of weights, 2 to 8."""
    weight_levels: Codebook | Sequence[float] | None = None
    """Levels of the weights in units of the scale, instead of the integers of `weight_bits`:
    "fp4", "ternary", "binary", or ascending numbers. See `quiesce.Grid.of_levels`. First and last
    layers have integers of `first_last_bits`, unless it is None."""
    act_bits: int | None = 4
    """Bits of the codes of layer inputs, 2 to 8, or None for float activations."""
    first_last_bits: int | None = 8
    """Bits of the weights of first and last layers and of the inputs of last layers, or None to
    treat them like all other layers. A first layer reads an input of the model with no other layer
    in between. The output of a last layer is read by no other layer. There can be several."""
    first_input_bits: int | None = None
    """Bits of the inputs of first layers, such as the image, or None to leave them in float."""
    per_channel: bool = False
    """Use one weight scale per output channel instead of one per tensor."""
    group_size: int | None = None
    """Use one weight scale per `group_size` inputs of each output in linear layers and embeddings;
    it must divide the number of inputs. Convolutions are not grouped: `per_channel` holds for them.
    """
    scale_dtype: ScaleFormat = "float32"
    """Number format of the weight scales: float32, float16, bfloat16 or e8m0 (powers of two). The
    scales in use are always exactly representable, so a file in this format has the same codes."""
    ranges: Range = "mse"
    """Method for the initial scales: mse, minmax, percentile or lsq."""
    clip: Clip = "range"
    """Rule for gradients at the ends of the grid, see `quiesce.fake_quantize`."""
    grad_scaling: bool = False
    """Multiply the gradients of scales by 1/sqrt(N*quant_max), as in LSQ."""
    learn_offset: bool = False
    """Learn the value of code 0 of every input, on an unsigned grid (LSQ+)."""
    estimator: Estimator = STE()  # noqa: RUF009 (immutable)
    """Rounding of the weights and its gradient."""
    act_estimator: Estimator = STE()  # noqa: RUF009 (immutable)
    """Rounding of the inputs and its gradient. Estimators that need a history are not allowed."""
    residual: Residual = "float"
    """Treatment of additions of two activations: float or quantized. If quantized, both operands
    are rounded to `act_bits`, by the same quantizer as in layers that read the same tensor, so that
    the body of a residual network can run in integers. This applies if both operands depend on the
    input of the model and a layer reads the sum, not to arithmetic on boxes, shapes and positions.
    """
    residual_include: Sequence[str] = ("*",)
    """Modules whose additions are quantized if `residual="quantized"`."""
    residual_exclude: Sequence[str] = ()
    """Included modules whose additions stay in float."""
    include: Sequence[str] = ("*",)
    """Layers to quantize."""
    exclude: Sequence[str] = ()
    """Layers to leave in float."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of `LayerScheme` to set, by pattern. The last matching pattern takes precedence."""

    def __post_init__(self) -> None:
        check_clip(self.clip)
        base = self.base()
        if self.act_estimator.needs_history:
            raise ValueError(
                "act_estimator must not need a history, which inputs do not have, got "
                f"{self.act_estimator}; {type(self.act_estimator).__name__} is for weights"
            )
        for name in ("first_last_bits", "first_input_bits"):
            if (bits := getattr(self, name)) is not None:
                check_bits(name, bits)
        if self.residual not in get_args(Residual):
            known = " or ".join(get_args(Residual))
            raise ValueError(f"residual must be {known}, got {self.residual!r}")
        if self.residual == "quantized" and self.act_bits is None:
            raise ValueError("residual quantized needs act_bits, 2 to 8, got None")
        for name in ("include", "exclude", "residual_include", "residual_exclude"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a sequence of patterns, got a single string")
        known = {f.name for f in fields(LayerScheme)}
        for pattern, changes in self.overrides.items():
            if unknown := sorted(set(changes) - known):
                may = ", ".join(sorted(known))
                raise ValueError(f"overrides[{pattern!r}] sets {unknown[0]!r}; it may set {may}")
            base.changed(changes)

    def base(self) -> LayerScheme:
        """Return the scheme of layers without overrides, and of the operands of additions."""
        return LayerScheme(
            weight_bits=self.weight_bits,
            act_bits=self.act_bits,
            per_channel=self.per_channel,
            ranges=self.ranges,
            group_size=self.group_size,
            scale_dtype=self.scale_dtype,
            weight_levels=self.weight_levels,
        )

    def selects(self, name: str) -> bool:
        """Return whether the layer `name` is to be quantized."""
        return _matches(name, self.include) and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Return whether a pattern of `exclude` matches the layer `name`."""
        return _matches(name, self.exclude)

    def selects_additions(self, name: str) -> bool:
        """Return whether the additions of the module `name` are to be quantized."""
        included = _matches(name, self.residual_include)
        return included and not _matches(name, self.residual_exclude)

    def resolve(
        self, names: Sequence[str], *, first: Collection[str], last: Collection[str]
    ) -> dict[str, LayerScheme]:
        """Return the scheme of each layer."""
        layers = dict.fromkeys(names, self.base())
        if self.first_last_bits is not None:
            bits = self.first_last_bits
            for name in {*first, *last}:
                act_bits = None if self.act_bits is None else bits
                changes = {"weight_bits": bits, "act_bits": act_bits}
                layers[name] = layers[name].changed(changes)
        for name in first:
            layers[name] = replace(layers[name], act_bits=self.first_input_bits)
        for pattern, changes in self.overrides.items():
            for name in names:
                if fnmatchcase(name, pattern):
                    layers[name] = layers[name].changed(changes)
        return layers

    def check_patterns(self, names: Sequence[str]) -> None:
        """Raise a PrepareError if a pattern matches no layer, which is probably a typo."""
        self._check(("include", "exclude", "overrides"), names, "layer")

    def check_addition_patterns(self, names: Sequence[str]) -> None:
        """Raise a PrepareError if a residual pattern matches no module that adds."""
        default = self.residual_include == ("*",)  # a network may have no additions
        fields = ("residual_exclude",) if default else ("residual_include", "residual_exclude")
        self._check(fields, names, "module that adds")

    def _check(self, fields: Sequence[str], names: Sequence[str], kind: str) -> None:
        for where in fields:
            for pattern in getattr(self, where):
                if not any(fnmatchcase(name, pattern) for name in names):
                    hint = did_you_mean(pattern, names, 0.3) or "print(model) shows the names"
                    raise PrepareError(f"{where}: {pattern!r} matches no {kind}; {hint}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
