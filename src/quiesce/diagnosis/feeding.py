"""Finds the layer that feeds each batch norm, from one forward pass."""

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from quiesce.inference import Batch, Forward, Input, arguments_of, batch_norms, inference
from quiesce.parallel.wrappers import named_modules
from quiesce.quantization.quantized_layers import LAYERS


@torch.no_grad()
def feeding_layers(
    model: nn.Module, example: Input | Batch, forward: Forward | None = None
) -> dict[str, str | None]:
    """Return, for each batch norm with running statistics, the layer whose output is its input.

    Args:
        model: Float or prepared; it runs once in inference mode, and does not change.
        example: An input of the model, or a batch for `forward`.
        forward: Function of the model and a batch that replaces the call.

    Returns:
        Name of the batch norm to name of the convolution or linear layer, or to None if something
        is in between or the forward pass does not reach the batch norm.
    """
    names = {module: name for name, module in named_modules(model)}
    norms = batch_norms(model).values()
    made: dict[int, tuple[ref[Tensor], str]] = {}
    found: dict[str, str | None] = {names[norm]: None for norm in norms}

    def after_layer(layer: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = ref(output), names[layer]

    def before_norm(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensor, layer = made.get(id(inputs[0]), (None, None))
        if tensor is not None and tensor() is inputs[0]:  # otherwise the id was reused
            found[names[norm]] = layer

    layers = [module for module in names if isinstance(module, LAYERS)]
    handles = [layer.register_forward_hook(after_layer) for layer in layers]
    handles += [norm.register_forward_pre_hook(before_norm) for norm in norms]
    try:
        with inference(model):
            if forward is not None:
                forward(model, example)
            else:
                args, kwargs = arguments_of(example)
                model.forward(*args, **kwargs)  # a compiled call would skip the hooks
    finally:
        for handle in handles:
            handle.remove()
    return found
