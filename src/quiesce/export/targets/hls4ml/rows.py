"""A design: a network as hls4ml layers, and the rows of its report."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Accumulator:
    """A row of the report."""

    layer: str
    what: str
    """"layer", "addition" or "mean"."""
    low: int
    """Smallest reachable sum, in units of its last bit."""
    high: int
    bits: int
    """Bits of the accumulator, with its sign."""
    fraction: int = 0
    """Fractional bits of the accumulator."""


@dataclass(kw_only=True)
class Rescaling:
    """A row of the report: acc*m + b after an accumulator."""

    gives: str
    """The layer whose input codes it gives, or the name of the output."""
    after: str
    scale: str
    bias: str
    fraction: int
    """Fractional bits of m and b."""
    result: str
    """Type of the result."""


@dataclass(kw_only=True)
class Design:
    """A network as layers of hls4ml."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration of each layer, by name."""
    inputs: list[str] = field(default_factory=list)
    """Names of the layers of the inputs."""
    outputs: list[str] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)
    """Names of the quantized inputs to the layers that compute them."""
    weights: dict[str, str] = field(default_factory=dict)
    """Names of the uses of weights to layers."""
    accumulators: list[Accumulator] = field(default_factory=list)
    rescalings: list[Rescaling] = field(default_factory=list)
