"""A few steps of quantization-aware training, as a user writes them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.inference import Input, batch_norms, named_tensors
from quiesce.quantization.dataflow import run

SCHEME = qs.Scheme(weight_bits=4, act_bits=4, grad_scaling=True)


def trained(
    model: nn.Module,
    example: Input,
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    scheme: qs.Scheme = SCHEME,
) -> nn.Module:
    """`model` after prepare, calibrate and three steps with tracker and freezing.

    Its weights are random: batch norms first get the statistics that those of trained ones have.
    """
    if batch_norms(model):
        qs.reestimate_batchnorm(model, batches)
    qs.prepare(model, scheme, example)
    qs.calibrate(model, batches, count=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)  # the weights are random
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.5)])
    model.train()
    for step in range(3):
        cost = loss(model, batches[step % len(batches)]) + control.penalty()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    assert bool(cost.isfinite())
    assert control.step == tracker.steps == 3
    return model.eval()


def check_stripped(model: nn.Module, example: Input) -> None:
    """The float copy has the quantized weights and runs."""
    plain = qs.strip(model)
    layers = dict(plain.named_modules())
    for weight in qs.quantized_weights(model):
        assert torch.equal(layers[weight.name].weight, weight.quantized())
    tensors = named_tensors(run(plain, example))
    assert tensors
    assert all(bool(t.isfinite().all()) for _, t in tensors if t.is_floating_point())
