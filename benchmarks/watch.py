"""Cost of a check of the watch, as a share of the step that it checks.

Writes results/watch.json.

Usage: python benchmarks/watch.py    (a minute)
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import interleaved, save
from torch import nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from networks import Data, data, quantized_network, sgd

CASES = {"mobilenetv2_100": (16, 96, 15), "test_resnet": (8, 32, 60)}
"""Network to images of a batch, their side, and rounds; the second is as small as they get."""


def step(model: nn.Module, batch: Data) -> Callable[[], Any]:
    """Return a training step that keeps its gradients, for the check to read."""
    optimizer, (images, labels) = sgd(model), batch

    def call() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return call


def main() -> None:
    """Time a step and the check alone, alternating."""
    results: dict[str, Any] = {}
    for name, (batch, side, rounds) in CASES.items():
        inputs = data(batch, side)
        model = quantized_network(name, "off", inputs[0])
        watch, loss = qs.Watch(model), torch.ones(())
        actions = {"step": step(model, inputs), "check": lambda w=watch, x=loss: w.check(x)}
        samples = interleaved(actions, rounds=rounds)
        medians = {what: 1e3 * statistics.median(each) for what, each in samples.items()}
        share = medians["check"] / medians["step"]
        results[name] = {"batch": batch, "side": side, "ms": medians, "share": share}
        print(name, medians, f"{share:.2%}", flush=True)
    print(save("watch", results))


if __name__ == "__main__":
    main()
