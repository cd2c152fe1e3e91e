"""Quantization correction: after training, a factor and an offset for each channel of each layer.

    h' = gamma * h + beta        h = W_q a + b, the output of a quantized layer

Everything else is fixed, and batch norm uses its running statistics. gamma and beta begin as 1 and
0, and are learned from the loss of the task in one pass over some batches.

The correction is learned in the parameters that can hold it, so nothing is added to the network:
the weight and the bias of a batch norm that reads h; else the scales of W_q, with one gamma for
each scale, and b, if the layer has one. The codes of the latter layers are frozen first.

Source: Gupta, Asthana, Reducing the Side-Effects of Oscillations in Training of Quantized YOLO
Networks, WACV 2024, arXiv:2311.05109.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quiesce.diagnosis.feeding import feeding_layers
from quiesce.errors import DivergedError, NothingToDoError, TrackingError
from quiesce.inference import Batch, Forward, call_on_batch, inference, label_of, split_batch
from quiesce.parallel.processes import taken, total, world_size
from quiesce.parallel.wrappers import module_named, unwrapped
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_weight import QuantizedWeight


class _Holders(NamedTuple):
    """The parameters that hold the correction."""

    plain: list[nn.Parameter]
    """Weights and biases of batch norms, biases of layers."""
    scales: list[nn.Parameter]
    """Scales of the weights of layers without batch norm."""
    layers: list[QuantizedWeight]
    """These layers."""

    @property
    def all(self) -> list[nn.Parameter]:
        return [*self.plain, *self.scales]


def correct_quantization(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    count: int,
    lr: float = 1e-4,
    forward: Forward | None = None,
) -> dict[str, int]:
    """Correct the outputs of all quantized layers after training, by the loss of the task.

    The model runs in inference mode; re-estimate its batch-norm statistics before. Locked layers
    (`requires_grad=False`) are left as they are. Several processes average their gradients. If an
    error is raised, the parameters that hold the correction are as before.

    Args:
        model: The prepared model, after training; changed in place.
        batches: Batches of an input and its label (see `quiesce.inference`), on the device of the
            model. Published: those of one epoch over a part of the training data.
        loss: Function from the output of the model and the label to a scalar.
        count: Batches to learn from at most, at least 1; one optimizer step each.
        lr: Learning rate of Adam, above 0, relative to the scales for the factors of layers without
            batch norm.
        forward: Function of the model and a batch that replaces the call; the label is still the
            second entry of the batch.

    Returns:
        Numbers of "parameters" that hold the correction and of optimizer "steps".

    Raises:
        ValueError: `count` or `lr` is out of range.
        TrackingError: The weights are split over processes.
        NothingToDoError: No layer can be corrected, or there is no batch.
        DivergedError: The loss is not finite.
    """
    if count < 1:
        raise ValueError(f"`count` must be at least 1 batch, got {count}")
    if not lr > 0:
        raise ValueError(f"`lr` must be above 0, got {lr}")
    model = unwrapped(model)
    reading = iter(batches)
    if (first := next(reading, None)) is None:
        raise NothingToDoError("`batches` is empty: quantization correction learns from batches")
    held = _holders(model, first, forward)
    before = [each.detach().clone() for each in held.all]
    codes = [weight.codes() for weight in held.layers]
    steps = 0
    try:
        for weight, its in zip(held.layers, codes, strict=True):
            weight.freeze(torch.ones_like(its, dtype=torch.bool), its)
        optimizer = _optimizer(held, lr)
        with inference(model), torch.enable_grad():
            for batch in taken(chain([first], reading), count, model):
                _learn(model, held.all, loss(call_on_batch(model, batch, forward), label_of(batch)))
                optimizer.step()
                steps += 1
    except BaseException:
        for parameter, value in zip(held.all, before, strict=True):
            parameter.data.copy_(value)
        raise
    finally:
        for parameter in held.all:
            parameter.grad = None
        for weight in held.layers:
            weight.pin_latents()
    return {"parameters": sum(each.numel() for each in held.all), "steps": steps}


def _learn(model: nn.Module, parameters: list[nn.Parameter], cost: Tensor) -> None:
    """Set the gradients of the parameters, averaged over processes."""
    if not bool(cost.isfinite()):
        raise DivergedError(
            f"the loss of {type(model).__name__} in quantization correction is {cost.item()}; the "
            "network is as before. Lower `lr`, or look for nan or inf in the batches"
        )
    gradients = torch.autograd.grad(cost, parameters, allow_unused=True, materialize_grads=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    averaged = (total(flat) / world_size()).split([each.numel() for each in parameters])
    for parameter, gradient in zip(parameters, averaged, strict=True):
        parameter.grad = gradient.view_as(parameter)


def _holders(model: nn.Module, first: Batch, forward: Forward | None) -> _Holders:
    weights = [weight for weight in quantized_weights(model) if not weight.locked]
    if any(weight.shards is not None for weight in weights):
        raise TrackingError(
            "quantization correction needs whole weights, and these are split over processes; "
            "correct the network in one process, from its saved state"
        )
    example = first if forward is not None else split_batch(first)[0]
    feeds = feeding_layers(model, example, forward)
    norms = {layer: module_named(model, norm) for norm, layer in feeds.items()}
    plain: dict[nn.Parameter, None] = {}
    scales: dict[nn.Parameter, None] = {}
    layers = []
    for weight in weights:
        norm = norms.get(weight.name)
        if norm is not None and isinstance(norm.weight, nn.Parameter):
            plain |= dict.fromkeys(_learning(norm.weight, norm.bias))
            continue
        layers.append(weight)
        scales |= dict.fromkeys(_learning(*weight.scale_parameters))
        plain |= dict.fromkeys(_learning(weight.module.bias))
    if not (plain or scales):
        raise NothingToDoError(
            f"{type(model).__name__} has no quantized layer whose correction could be learned; "
            "call quiesce.prepare first, and do not lock all layers"
        )
    return _Holders(list(plain), list(scales), layers)


def _learning(*parameters: object) -> list[nn.Parameter]:
    """Return those that are parameters and learn."""
    return [each for each in parameters if isinstance(each, nn.Parameter) and each.requires_grad]


def _optimizer(held: _Holders, lr: float) -> torch.optim.Adam:
    """Return Adam, whose steps on a scale are relative to it, as those on a factor are to 1."""
    groups = [
        {"params": [scale], "lr": lr * float(scale.detach().abs().mean())} for scale in held.scales
    ]
    return torch.optim.Adam([{"params": held.plain}, *groups] if held.plain else groups, lr=lr)
