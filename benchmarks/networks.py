"""Networks and training steps that the benchmarks time."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.models.small_mobilenet import SmallMobileNetV2
from quiesce.quantization.compile import CompileMode

SCHEME = qs.Scheme(weight_bits=4, act_bits=4)
LR = 1e-3
SCALE_LR = 1e-7

Data = tuple[Tensor, Tensor]


def data(batch: int, size: int) -> Data:
    """Return random images (batch, 3, size, size) and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator)
    return images, torch.randint(0, 1000, (batch,), generator=generator)


def float_network(name: str, compiled: bool) -> nn.Module:
    """Return a timm network, or the demo's, with random weights, in training mode."""
    torch.manual_seed(0)
    own = name == "mobilenetv2_mnist"
    model = (SmallMobileNetV2(3, 1000) if own else timm.create_model(name)).train()
    if compiled:
        model.compile(dynamic=False)
    return model


def quantized_network(name: str, mode: CompileMode, images: Tensor) -> nn.Module:
    """Return the same network at W4A4, calibrated."""
    model = float_network(name, compiled=False)
    qs.prepare(model, SCHEME, images[:2])
    qs.calibrate(model, [images[:8]])
    return qs.compile(model, mode).train()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD as in the published recipes; faster scales would flip every tenth code."""
    scales = {id(p) for n, p in model.named_parameters() if n.endswith(("scale", "value"))}
    weights = [p for p in model.parameters() if id(p) not in scales]
    groups = [
        {"params": weights},
        {"params": [p for p in model.parameters() if id(p) in scales], "lr": SCALE_LR},
    ]
    return torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=5e-5)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Data,
    penalty: Callable[[], Tensor] | None = None,
) -> Callable[[], Any]:
    """Return a function that makes one training step."""
    images, labels = batch

    def call() -> None:
        loss = cross_entropy(model(images), labels)
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def float_step(name: str, batch: Data, *, compiled: bool = False) -> Callable[[], Any]:
    """Return a step of the float network."""
    model = float_network(name, compiled)
    return step(model, sgd(model), batch)


def cure_steps(name: str, mode: CompileMode, batch: Data) -> dict[str, Callable[[], Any]]:
    """Return steps of a quantized network: LSQ alone, with dampening, with tracker and freezing.

    All use the same network; each has its own optimizer. Weights, codes and therefore
    memory traffic are those of one training run.
    """
    model = quantized_network(name, mode, batch[0])
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights)
    dampening = qs.Dampening(1e-3)
    dampening.attach(weights, tracker)
    freezing = sgd(model)
    qs.Control(freezing, weights, tracker, [qs.Freezing(0.02, max_frozen=None)])
    return {
        "lsq": step(model, sgd(model), batch),
        "dampening": step(model, sgd(model), batch, lambda: dampening.penalty(0)),
        "freezing": step(model, freezing, batch),
    }
