"""Detectors of torchvision, small enough for tests."""

import torch
import torchvision
from torch import Tensor, nn


class Images(nn.Module):
    """A detector that takes a batch, in training with a box for each image."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> object:
        box = {"boxes": torch.tensor([[2.0, 3.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
        targets = [box for _ in images] if self.training else None
        return self.detector(list(images), targets)


def detector(name: str) -> nn.Module:
    """A detector of torchvision with random weights, for images of any size."""
    torch.manual_seed(0)
    small = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    made = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=3, **small
    )
    return Images(made)
