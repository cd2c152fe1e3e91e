"""Finds the layer of a number that is not finite. Slow, so it runs only after a fault."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quiesce.inference import batch_norms, buffers_of, put_back
from quiesce.parallel.split_weights import local
from quiesce.parallel.wrappers import named_modules, named_parameters
from quiesce.quantization.quantized_layers import QuantizedLayer


class Forward(NamedTuple):
    """Result of a repeated forward pass."""

    broken: str | None
    """The first layer whose output is not finite, or None."""
    dtype: torch.dtype | None
    """The dtype of that output."""
    fed: bool
    """Whether the input of that layer is not finite either."""
    silent: list[str]
    """Layers whose quantized input is zero everywhere."""


def broken_parameter(model: nn.Module) -> str | None:
    """Return the first scale, or else the first weight, that is not finite; or None."""
    names = [name for name, value in named_parameters(model) if not _finite(value)]
    return min(names, key=lambda name: not name.endswith(("scale", "offset")), default=None)


def broken_statistic(model: nn.Module) -> str | None:
    """Return the first running statistic of a batch norm that is not finite, or None.

    Other buffers may be infinite, such as attention masks.
    """
    for name, norm in batch_norms(model).items():
        for which in ("running_mean", "running_var"):
            if not _finite(norm.get_buffer(which)):
                return f"{name}.{which}" if name else which
    return None


def broken_gradient(model: nn.Module) -> str | None:
    """Return the last parameter, in the order of the model, whose gradient is not finite, or None.

    The backward pass reaches it first.
    """
    names = [
        name
        for name, value in named_parameters(model)
        if value.grad is not None and not _finite(value.grad)
    ]
    return names[-1] if names else None


def layer_of(parameter: str) -> str:
    """Return the layer of a parameter: "a.b" for "a.b.weight_quantizer.scale"."""
    path = parameter.rpartition(".")[0]
    return path.removesuffix(".weight_quantizer").removesuffix(".input_quantizer") or parameter


@torch.no_grad()
def run_again(model: nn.Module, forward: Callable[[], Any]) -> Forward:
    """Repeat a forward pass operator by operator, and inspect the inputs and outputs of each layer.

    Buffers and random states are restored afterwards.
    """
    broken: list[tuple[str, torch.dtype, bool]] = []
    silent: list[str] = []

    def after(name: str, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not broken and (bad := _first_broken(output)) is not None:
            broken.append((name, bad.dtype, _first_broken(args) is not None))
        quantized = isinstance(layer, QuantizedLayer) and layer.input_quantizer is not None
        if quantized and args and not args[0].any():
            silent.append(name)

    handles = [
        layer.register_forward_hook(partial(after, name))
        for name, layer in named_modules(model)
        if isinstance(layer, QuantizedLayer) or not any(layer.children())
    ]
    buffers = buffers_of(model)
    try:
        with torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        put_back(model, buffers)
        for handle in handles:
            handle.remove()
    name, dtype, fed = broken[0] if broken else (None, None, False)
    return Forward(name, dtype, fed, silent)


@torch.no_grad()
def reset_statistics(model: nn.Module) -> list[str]:
    """Reset running statistics that are not finite to mean 0 and variance 1.

    Batch norm averages them, so a number that is not finite would persist.

    Returns:
        Names of the batch norms that were changed.
    """
    found = []
    for name, norm in batch_norms(model).items():
        mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        bad = ~(mean.isfinite() & var.isfinite())
        if bool(bad.any()):
            mean[bad], var[bad] = 0.0, 1.0
            found.append(name)
    return found


def _finite(tensor: Tensor) -> bool:
    return bool(local(tensor).isfinite().all())


def _first_broken(values: Any) -> Tensor | None:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.is_floating_point() and not _finite(value):
            return value
    return None
