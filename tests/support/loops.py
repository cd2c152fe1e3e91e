"""A training loop as a user writes it, in which weights oscillate."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import quiesce as qs
from support.small_networks import prepared_network

IMAGES = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(5))


class Loop:
    """A training loop as a user writes it; the two lines of quiesce are marked.

    The network flattens no batch statistics into its gradient: batch norm is in inference mode, so
    that a batch in two halves gives the gradient of the whole.
    """

    def __init__(
        self,
        cures: Sequence[qs.Cure] = (),
        optimizer: Callable[..., Any] = torch.optim.SGD,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        torch.manual_seed(11)
        self.model = prepared_network() if model is None else model
        self.model.eval()
        options = {"lr": 0.02, **options}
        self.optimizer = optimizer(self.model.parameters(), **options)
        self.weights = qs.quantized_weights(self.model)
        self.tracker = qs.OscillationTracker(self.weights, 0.2)
        self.control = qs.Control(self.optimizer, self.weights, self.tracker, cures)  # here

    def loss(self, images: Tensor = IMAGES, seed: int = 0) -> Tensor:
        """Towards targets that change from step to step, so that weights go to and fro."""
        noise = torch.Generator().manual_seed(100 * self.control.step + seed)
        output = self.model(images)
        target = 3 * torch.randn(len(IMAGES), 5, generator=noise)[: len(images)]
        return (output - target).square().mean()

    def step(self, images: Tensor = IMAGES) -> None:
        self.optimizer.zero_grad()
        (self.loss(images) + self.control.penalty()).backward()  # and here
        self.optimizer.step()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def state(self) -> Any:
        """All that there is: network, optimizer, control."""
        return copy.deepcopy(
            (
                dict(self.model.state_dict()),
                dict(self.optimizer.state_dict()),
                self.control.state_dict(),
            )
        )
