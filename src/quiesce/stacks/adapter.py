"""An adapter for toolkits that quiesce does not know, made from functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError
from quiesce.stacks.site import Change, Reading, Site, codes_of


class WeightGrid(NamedTuple):
    """The grid of one weight: value = scale * (code - zero_point).

    Examples:
        >>> grid = qs.WeightGrid(scale=torch.tensor(0.1), quant_min=-8, quant_max=7)
        >>> grid.zero_point
        0.0
    """

    scale: Tensor
    """Floats per code, above 0, broadcastable to the weight."""
    quant_min: int
    quant_max: int
    zero_point: Tensor | float = 0.0
    """The code of 0, broadcastable to the weight; not always an integer."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Functions through which `quiesce.attach` reaches the weights of any toolkit.

    Each takes the name of a layer. docs/how-to/attach.md has those of NNCF and Quanto.

    Examples:
        >>> linear = torch.nn.Linear(8, 4)
        >>> adapter = qs.Adapter(
        ...     params=lambda model: {"layer": model.weight},
        ...     quantize=lambda name: (linear.weight / 0.1).round().clamp(-8, 7) * 0.1,
        ...     grid=lambda name: qs.WeightGrid(torch.tensor(0.1), quant_min=-8, quant_max=7),
        ...     write=lambda name, values: linear.weight.data.copy_(values),
        ... )
        >>> [weight.grid.bits for weight in qs.attach(linear, adapter=adapter)]
        [4]
    """

    params: Callable[[nn.Module], Mapping[str, nn.Parameter]]
    """From the model: name of the layer to its float weight, which the optimizer updates."""
    quantize: Callable[[str], Tensor]
    """The weight as the next forward pass will use it; changes nothing."""
    grid: Callable[[str], WeightGrid]
    """Its grid, as the next forward pass will use it; changes nothing."""
    write: Callable[[str, Tensor], object]
    """Writes other values to the float weight, in place."""
    hook: Callable[[str], nn.Module] | None = None
    """The module whose output is the quantized weight. Without it, frozen weights are only written
    after each step: a learned scale then gets no gradient from them."""
    scales: Callable[[str], Sequence[nn.Parameter]] | None = None
    """The parameters of a learned scale."""
    hold: Callable[[str, Tensor, Tensor], object] | None = None
    """Fixes scale and zero point, if the toolkit computes them from the weight at each forward."""
    follows_weight: bool = False
    """Whether it does; weights can then only be frozen with `hold`."""
    converted: Callable[[str, Any], tuple[Tensor, Tensor, Tensor] | None] | None = None
    """Codes, scale and zero point in what the toolkit's conversion returned, for `quiesce.audit`"""

    def sites(self, model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
        """Yield the weights of a model.

        Raises:
            AttachError: The functions contradict each other.
        """
        for name, parameter in self.params(model).items():
            if wanted(name):
                module = dict(model.named_modules()).get(name, model)
                yield AdaptedWeight(self, name, module, parameter)


class AdaptedWeight(Site):
    """One weight that an `Adapter` reaches."""

    def __init__(
        self, adapter: Adapter, name: str, module: nn.Module, parameter: nn.Parameter
    ) -> None:
        super().__init__(name, module)
        self._adapter, self._latent = adapter, parameter
        self.follows_weight = adapter.follows_weight
        self._check()

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return self._latent

    @property
    def grid(self) -> Grid:
        """The integers of the codes."""
        now = self._adapter.grid(self.name)
        return Grid.between(now.quant_min, now.quant_max)

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters of a learned scale."""
        return () if self._adapter.scales is None else tuple(self._adapter.scales(self.name))

    @torch.no_grad()
    def read(self) -> Reading:
        """Call `quantize` and `grid`."""
        scale, zero_point = self._scale()
        codes = codes_of(self._adapter.quantize(self.name), scale, zero_point)
        return Reading(self._latent.detach(), codes, scale.detach(), zero_point.detach())

    def write(self, values: Tensor) -> None:
        """Call `write`."""
        self._adapter.write(self.name, values)

    def on_output(self, change: Change) -> RemovableHandle | None:
        """Hook the module of `hook`, if there is one."""
        if self._adapter.hook is None:
            return None

        def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            return change(out, *self._scale())

        return self._adapter.hook(self.name).register_forward_hook(hook)

    def hold(self, kept: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Call `hold`.

        Raises:
            AttachError: The adapter has none.
        """
        if self._adapter.hold is None:
            raise AttachError(
                f"{self.name}: its scale follows its weight, and would change when weights are "
                "frozen; give quiesce.Adapter a function `hold`"
            )
        if kept is None:
            kept = tuple(each.detach().clone() for each in self._scale())
        self._adapter.hold(self.name, *kept)
        return kept

    def converted(self, model: Any) -> Reading | None:
        """Call `converted`.

        Raises:
            AttachError: The adapter has none.
        """
        if self._adapter.converted is None:
            raise AttachError(
                f"{self.name}: quiesce.audit needs a function `converted` of quiesce.Adapter"
            )
        found = self._adapter.converted(self.name, model)
        if found is None:
            return None
        codes, scale, zero_point = found
        return Reading(self._latent.detach(), codes.to(scale.dtype), scale, zero_point)

    def _scale(self) -> tuple[Tensor, Tensor]:
        now = self._adapter.grid(self.name)
        return now.scale, torch.as_tensor(now.zero_point, dtype=now.scale.dtype).to(
            now.scale.device
        )

    @torch.no_grad()
    def _check(self) -> None:
        """Raise an error if the quantized weight is not on the grid.

        Raises:
            AttachError: It is not.
        """
        values, now = self._adapter.quantize(self.name), self.read()
        off = (values - now.scale * (now.codes - now.zero_point)).abs() / now.scale
        grid = self.grid
        inside = (now.codes >= grid.quant_min) & (now.codes <= grid.quant_max)
        if values.shape != self._latent.shape or not bool(((off < 0.01) & inside).all()):
            raise AttachError(
                f"{self.name}: what `quantize` of the adapter returns is not on the grid that "
                f"`grid` returns, integers from {grid.quant_min} to {grid.quant_max} times a scale"
            )
