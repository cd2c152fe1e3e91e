"""Where a number went wrong: slow looks at a model, for when it is known that one did."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils._pytree import tree_leaves

from quiesce.inference import buffers_of, put_back
from quiesce.parallel.split_weights import local
from quiesce.quantization.quantized_layers import QuantizedLayer


class Forward(NamedTuple):
    """What a forward that was run again showed."""

    broken: str | None
    """The first layer whose output is not finite, or None."""
    dtype: torch.dtype | None
    """Of that output."""
    fed: bool
    """Whether something that is not finite went into that layer already."""
    silent: list[str]
    """Layers whose quantized input is zero throughout."""


def broken_parameter(model: nn.Module) -> str | None:
    """Return the name of the first scale, else weight, that is not finite, or None."""
    names = [name for name, value in model.named_parameters() if not _finite(value)]
    return min(names, key=lambda name: not name.endswith(("scale", "offset")), default=None)


def broken_statistic(model: nn.Module) -> str | None:
    """Return the name of the first running statistic of a batch norm that is not finite, or None.

    Other buffers may be infinite and sound: masks of attention are.
    """
    for name, norm in _norms(model):
        for which in ("running_mean", "running_var"):
            if not _finite(norm.get_buffer(which)):
                return f"{name}.{which}" if name else which
    return None


def broken_gradient(model: nn.Module) -> str | None:
    """Return the last parameter whose gradient is not finite, or None.

    The last in the order of the model, which its backward comes to first.
    """
    names = [
        name
        for name, value in model.named_parameters()
        if value.grad is not None and not _finite(value.grad)
    ]
    return names[-1] if names else None


def layer_of(parameter: str) -> str:
    """Return the layer that a parameter belongs to: "a.b" of "a.b.weight_quantizer.scale"."""
    path = parameter.rpartition(".")[0]
    return path.removesuffix(".weight_quantizer").removesuffix(".input_quantizer") or parameter


@torch.no_grad()
def run_again(model: nn.Module, forward: Callable[[], Any]) -> Forward:
    """Run a forward once more, operator by operator, and look at what each layer gets and gives.

    Buffers and random numbers are as before afterwards.

    Args:
        model: Whose layers are looked at.
        forward: Runs it, on what it ran on before.
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
        for name, layer in model.named_modules()
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
def mend_statistics(model: nn.Module) -> list[str]:
    """Start running statistics anew where they are not finite: mean 0, variance 1.

    Batch norm keeps averages; one number that is not finite would stay in them for good.

    Returns:
        Names of the batch norms in which there was one.
    """
    mended = []
    for name, norm in _norms(model):
        mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        bad = ~(mean.isfinite() & var.isfinite())
        if bool(bad.any()):
            mean[bad], var[bad] = 0.0, 1.0
            mended.append(name)
    return mended


def _norms(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    for name, norm in model.named_modules():
        if isinstance(norm, BatchNorm) and norm.running_mean is not None:
            yield name, norm


def _finite(tensor: Tensor) -> bool:
    return bool(local(tensor).isfinite().all())


def _first_broken(values: Any) -> Tensor | None:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.is_floating_point() and not _finite(value):
            return value
    return None
