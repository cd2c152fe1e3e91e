"""Which layers are quantized, and how."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from quiesce.arithmetic.estimators import STE, Estimator
from quiesce.arithmetic.fake_quantize import Clip, check_clip
from quiesce.arithmetic.grid import check_bits
from quiesce.arithmetic.ranges import Range, check_range
from quiesce.errors import PrepareError

Residual = Literal["float", "quantized"]


@dataclass(frozen=True, kw_only=True)
class LayerScheme:
    """The scheme of one layer; `Scheme.overrides` may set its fields."""

    weight_bits: int
    """Bits of the codes of the weight, 2 to 8."""
    act_bits: int | None
    """Bits of the codes of the input, 2 to 8, or None for a float input."""
    per_channel: bool
    """One weight scale per output channel instead of one for the tensor."""
    ranges: Range
    """How the first scales are computed, one of `quiesce.arithmetic.ranges.RANGES`."""

    def __post_init__(self) -> None:
        check_bits("weight_bits", self.weight_bits)
        if self.act_bits is not None:
            check_bits("act_bits", self.act_bits)
        check_range(self.ranges)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a model is quantized. Patterns are shell patterns for module names (fnmatch).

    Raises:
        ValueError, TypeError: A field is out of range, or an override has an unknown field.
    """

    weight_bits: int = 4
    """Bits of the codes of weights, 2 to 8."""
    act_bits: int | None = 4
    """Bits of the codes of layer inputs, 2 to 8, or None for float activations."""
    first_last_bits: int | None = 8
    """Bits of the weights of first and last layers and of the inputs of last layers, or None to
    treat them as all others. A first layer reads an input of the model with no other layer in
    between; a last layer is one whose output no other layer reads. There may be several."""
    first_input_bits: int | None = None
    """Bits of the inputs of first layers, such as the image, or None to leave them in float."""
    per_channel: bool = False
    """One weight scale per output channel instead of one for the tensor."""
    ranges: Range = "mse"
    """How the first scales are computed: mse, minmax, percentile or lsq."""
    clip: Clip = "range"
    """Where gradients pass at the ends of the grid, see `quiesce.fake_quantize`."""
    grad_scaling: bool = False
    """Multiply the gradients of scales by 1/sqrt(N*quant_max), as in LSQ."""
    learn_offset: bool = False
    """Learn the value of code 0 of every input, on an unsigned grid (LSQ+)."""
    estimator: Estimator = STE()  # noqa: RUF009 (immutable)
    """Rounding of the weights, and its gradient."""
    act_estimator: Estimator = STE()  # noqa: RUF009 (immutable)
    """Rounding of the inputs, and its gradient; not an estimator that needs history."""
    residual: Residual = "float"
    """What happens to additions of two activations: float, or quantized: both operands are rounded
    to `act_bits`, by the very quantizer of the layers that read the same tensor, so that the body
    of a residual network can run in integers. Both come from the input of the model, and a layer
    reads their sum; arithmetic on boxes, shapes and positions stays in float."""
    residual_include: Sequence[str] = ("*",)
    """Modules whose additions `residual="quantized"` is for."""
    residual_exclude: Sequence[str] = ()
    """Modules whose additions stay in float, of those included."""
    include: Sequence[str] = ("*",)
    """Layers to quantize."""
    exclude: Sequence[str] = ()
    """Layers to leave in float."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Patterns to fields of `LayerScheme`; the last matching pattern wins."""

    def __post_init__(self) -> None:
        check_clip(self.clip)
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
        base = self._base()
        for pattern, changes in self.overrides.items():
            if unknown := sorted(set(changes) - known):
                may = ", ".join(sorted(known))
                raise ValueError(f"overrides[{pattern!r}] sets {unknown[0]!r}; it may set {may}")
            replace(base, **changes)

    def _base(self) -> LayerScheme:
        return LayerScheme(
            weight_bits=self.weight_bits,
            act_bits=self.act_bits,
            per_channel=self.per_channel,
            ranges=self.ranges,
        )

    def of_additions(self) -> LayerScheme:
        """Return the scheme of the operands of additions: that of a layer without exceptions."""
        return self._base()

    def selects(self, name: str) -> bool:
        """Whether the layer called `name` is to be quantized."""
        return _matches(name, self.include) and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Whether `exclude` names this layer."""
        return _matches(name, self.exclude)

    def selects_additions(self, name: str) -> bool:
        """Whether the additions of the module called `name` are to be quantized."""
        included = _matches(name, self.residual_include)
        return included and not _matches(name, self.residual_exclude)

    def resolve(
        self, names: Sequence[str], *, first: Collection[str], last: Collection[str]
    ) -> dict[str, LayerScheme]:
        """The scheme of each layer.

        Args:
            names: The layers to quantize.
            first: Those of them that read an input of the model.
            last: Those of them whose output no other layer reads.
        """
        layers = dict.fromkeys(names, self._base())
        if self.first_last_bits is not None:
            bits = self.first_last_bits
            for name in {*first, *last}:
                act_bits = None if self.act_bits is None else bits
                layers[name] = replace(layers[name], weight_bits=bits, act_bits=act_bits)
        for name in first:
            layers[name] = replace(layers[name], act_bits=self.first_input_bits)
        for pattern, changes in self.overrides.items():
            for name in names:
                if fnmatchcase(name, pattern):
                    layers[name] = replace(layers[name], **changes)
        return layers

    def check_patterns(self, names: Sequence[str]) -> None:
        """Check that every pattern matches a layer, to find typing errors.

        Raises:
            PrepareError: A pattern matches nothing; the message has the nearest name.
        """
        self._check(("include", "exclude", "overrides"), names, "layer")

    def check_addition_patterns(self, names: Sequence[str]) -> None:
        """The same for modules that add.

        Raises:
            PrepareError: With the pattern and the name nearest to it.
        """
        default = self.residual_include == ("*",)  # a network may add nothing
        fields = ("residual_exclude",) if default else ("residual_include", "residual_exclude")
        self._check(fields, names, "module that adds")

    def _check(self, fields: Sequence[str], names: Sequence[str], kind: str) -> None:
        for where in fields:
            for pattern in getattr(self, where):
                if not any(fnmatchcase(name, pattern) for name in names):
                    near = get_close_matches(pattern, names, n=1, cutoff=0.3)
                    hint = f"; the nearest is {near[0]!r}" if near else ""
                    raise PrepareError(f"{where}: {pattern!r} matches no {kind}{hint}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
