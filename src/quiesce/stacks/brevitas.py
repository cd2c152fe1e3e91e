"""Brevitas: layers with a `weight_quant` of integers (`brevitas.nn`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from brevitas.core.quant.int import RescalingIntQuant  # pyright: ignore[reportMissingImports]
from brevitas.nn.mixin import QuantWeightMixin  # pyright: ignore[reportMissingImports]
from brevitas.proxy.groupwise_int_parameter_quant import (  # pyright: ignore[reportMissingImports]
    GroupwiseWeightQuantProxyFromInjector,
)
from brevitas.proxy.parameter_quant import (  # pyright: ignore[reportMissingImports]
    WeightQuantProxyFromInjector,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.parallel.wrappers import named_modules
from quiesce.stacks.qdq_onnx import onnx_weights
from quiesce.stacks.site import Change, Reading, Site, codes_of

# Any: pyright knows these classes only where Brevitas is installed
_LAYER: Any = QuantWeightMixin
_INTEGERS: Any = RescalingIntQuant
_PROXIES = (WeightQuantProxyFromInjector, GroupwiseWeightQuantProxyFromInjector)
_PARTS = ("scaling_impl", "zero_point_impl")


def sites(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    """Yield the weights whose quantizer is enabled."""
    layers: Any = named_modules(model)
    for name, module in layers:
        is_quantized = isinstance(module, _LAYER) and module.weight_quant.is_quant_enabled
        if is_quantized and wanted(name):
            yield BrevitasWeight(name, module)


class BrevitasWeight(Site):
    """One weight of Brevitas. The scale is learned, or a statistic of the weight."""

    module: Any

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        _check(name, self.module.weight_quant)
        self.follows_weight = bool(_followers(self._quant))
        self._again: RemovableHandle | None = None

    @property
    def _quant(self) -> Any:
        return self.module.weight_quant.tensor_quant

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return self.module.weight

    @property
    def grid(self) -> Grid:
        """The integers of the codes; a narrow range has one less."""
        quant = self._quant
        bits = quant.msb_clamp_bit_width_impl()
        low, high = quant.int_quant.min_int(bits), quant.int_quant.max_int(bits)
        return Grid.between(int(low), int(high))

    @property
    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters of the quantizer."""
        return tuple(p for p in self._quant.parameters() if p is not self.latent)

    @torch.no_grad()
    def read(self) -> Reading:
        """Quantize the weight without hooks and without the proxy's cache."""
        proxy = self.module.weight_quant
        out = proxy.create_quant_tensor(proxy.tensor_quant(self.latent))
        codes = codes_of(out.value, out.scale, out.zero_point)
        return Reading(self.latent.detach(), codes, out.scale, out.zero_point)

    def on_output(self, change: Change) -> RemovableHandle:
        """Hook the proxy, which stays the same when a state is loaded."""
        return self.module.weight_quant.register_forward_hook(_Hook(change))

    def hold(self, kept: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Replace the modules that compute scale and zero point by their present results."""
        quant, weight = self._quant, self.latent
        if kept is None:
            with torch.no_grad():
                bits = quant.msb_clamp_bit_width_impl()
                scale = quant.scaling_impl(weight, quant.int_scaling_impl(bits))
                kept = scale.clone(), quant.zero_point_impl(weight, scale, bits).clone()
        proxy = self.module.weight_quant
        _hold(kept, proxy)
        if self._again is not None:
            self._again.remove()
        self._again = proxy.register_load_state_dict_post_hook(partial(_hold, kept))
        return kept

    def converted(self, model: Any) -> Reading | None:
        """Read the weight in a QCDQ ONNX file, by its path.

        Raises:
            AttachError: `model` is not the path of a readable ONNX file.
        """
        if not isinstance(model, str | Path):
            raise AttachError(
                "quiesce.audit of Brevitas reads a file of brevitas.export.export_onnx_qcdq; "
                f"give its path, not a {type(model).__name__}"
            )
        mine = f"{self.name}.weight_quant."
        for each in onnx_weights(model):
            if any(part.strip(".").startswith(mine) for part in each.node.split()):
                return Reading(self.latent.detach(), each.codes, each.scale, each.zero_point)
        return None


class _Hook:
    """Changes the value of a quantized tensor; an instance is copied with its module."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, proxy: nn.Module, args: Any, out: Any) -> Any:
        value = self.change(out.value, out.scale, out.zero_point)
        if not hasattr(out, "value_"):
            return out._replace(value=value)
        grouped = out.from_expanded(value, out.group_size, out.group_dim)
        return out._replace(value_=grouped)


class _Constant(nn.Module):
    """Returns a fixed scale or zero point, and saves nothing."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self, *_: Any) -> Tensor:
        return self.get_buffer("value")


def _hold(kept: tuple[Tensor, ...], proxy: Any, *_: Any) -> None:
    """Replace statistics by constants; also called after a state was loaded, which undoes it."""
    for part, value in zip(_PARTS, kept, strict=True):
        now = getattr(proxy.tensor_quant, part)
        if part in _followers(proxy.tensor_quant) or isinstance(now, _Constant):
            setattr(proxy.tensor_quant, part, _Constant(value))


def _followers(quant: Any) -> list[str]:
    """Return which parts of a quantizer compute statistics of the weight in each forward pass."""
    parts = {part: type(getattr(quant, part)).__name__ for part in _PARTS}
    return [part for part, kind in parts.items() if kind.startswith("StatsFromParameter")]


def _check(name: str, proxy: Any) -> None:
    """Raise an error if this quantizer is not one of integers that can be read outside a forward.

    Raises:
        AttachError: The quantizer is of another kind, or still passes float weights on.
        NotCalibratedError: A learned scale has not been initialised.
    """
    quant: Any = proxy.tensor_quant
    if type(proxy) not in _PROXIES or not isinstance(quant, _INTEGERS):
        raise AttachError(
            f"{name}: the Brevitas quantizer {type(proxy).__name__} with {type(quant).__name__} "
            "is not a plain integer quantizer (float, decoupled, binary, ternary and "
            "accumulator-aware ones are not followed)"
        )
    if len(proxy.tracked_module_list) > 1:
        raise AttachError(f"{name}: several layers share its Brevitas quantizer")
    if list(quant.msb_clamp_bit_width_impl.parameters()):
        raise AttachError(
            f"{name}: Brevitas learns its number of bits; its codes have no fixed grid"
        )
    if any(_own_parameters(getattr(quant, part), proxy) for part in _followers(quant)):
        raise AttachError(
            f"{name}: its scale is a statistic of the weight that is rescaled by parameters, and "
            "cannot be held; use scaling_impl_type=PARAMETER_FROM_STATS"
        )
    delay = getattr(quant.int_quant.delay_wrapper.delay_impl, "quant_delay_steps", 0)
    if delay > 0:
        raise AttachError(
            f"{name}: quant_delay_steps passes float weights on for {delay} more forward passes; "
            "attach after them, or set quant_delay_steps=0"
        )
    if getattr(quant.scaling_impl, "init_done", True) is False:
        raise NotCalibratedError(
            f"{name}: its learned scale has no value yet; run one forward pass before "
            "quiesce.attach, or give it example_input"
        )


def _own_parameters(part: nn.Module, proxy: Any) -> list[nn.Parameter]:
    weights = {id(each) for each in proxy.tracked_parameter_list}
    return [each for each in part.parameters() if id(each) not in weights]
