"""Layer kinds, which determine how many weights contribute to one output."""

from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd as Convolution

Kind = Literal["depth-wise", "point-wise", "full", "linear", "other"]


def layer_kind(module: nn.Module | None) -> Kind:
    """Return the kind of a layer, float or quantized.

    Returns:
        "depth-wise": a convolution with one group per input channel and more than one group.
        "point-wise": another convolution whose kernels are single points. "full": any other
        convolution. "linear": nn.Linear. "other": everything else.

    >>> layer_kind(nn.Conv2d(8, 8, 3, groups=8))
    'depth-wise'
    """
    if isinstance(module, Convolution):
        if 1 < module.groups == module.in_channels:
            return "depth-wise"
        return "point-wise" if set(module.kernel_size) == {1} else "full"
    return "linear" if isinstance(module, nn.Linear) else "other"
