"""The normalization of raw pixels, as a module of the network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalization(nn.Module):
    """(pixel / 255 - mean) / std for uint8 images.

    Args:
        mean: One number, or one per channel, for pixels from 0 to 1.
        std: The same, above 0.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        wide = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
        shift = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) * 255
        self.register_buffer("shift", shift.float())
        self.register_buffer("factor", (1 / (255 * wide)).float())

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 images for uint8 images (batch, channels, height, width)."""
        return (images.float() - self.shift) * self.factor
