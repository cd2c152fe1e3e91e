"""Which layer feeds which batch norm: found by watching one forward."""

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quiesce.inference import Input, arguments_of, inference
from quiesce.quantization.quantized_layers import LAYERS


@torch.no_grad()
def feeding_layers(model: nn.Module, example: Input) -> dict[str, str | None]:
    """Return, for each batch norm with running statistics, the layer whose output it gets.

    Args:
        model: Float or prepared; run once in inference mode, nothing of it moves.
        example: What the model takes.

    Returns:
        Name of the batch norm to name of the convolution or linear layer whose very output is its
        input; None where something lies between, or the forward passes the batch norm by.
    """
    names = {module: name for name, module in model.named_modules()}
    norms = [m for m in names if isinstance(m, BatchNorm) and m.running_mean is not None]
    made: dict[int, tuple[ref[Tensor], str]] = {}
    found: dict[str, str | None] = {names[norm]: None for norm in norms}

    def after_layer(layer: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = ref(output), names[layer]

    def before_norm(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensor, layer = made.get(id(inputs[0]), (None, None))
        if tensor is not None and tensor() is inputs[0]:  # else the id has been given out again
            found[names[norm]] = layer

    layers = [module for module in names if isinstance(module, LAYERS)]
    handles = [layer.register_forward_hook(after_layer) for layer in layers]
    handles += [norm.register_forward_pre_hook(before_norm) for norm in norms]
    try:
        with inference(model):
            args, kwargs = arguments_of(example)
            model.forward(*args, **kwargs)  # not a compiled call: it would not stop at the hooks
    finally:
        for handle in handles:
            handle.remove()
    return found
