import pytest
import torch
from torch import nn

from quiesce.models.small_mobilenet import InvertedResidual, SmallMobileNetV2


def test_logits_of_a_batch_of_digits() -> None:
    assert SmallMobileNetV2()(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    assert SmallMobileNetV2(3, 4)(torch.rand(2, 3, 48, 40)).shape == (2, 4)


def test_it_has_the_parts_of_mobilenetv2() -> None:
    network = SmallMobileNetV2()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    depthwise = [m for m in convolutions if m.groups == m.in_channels > 1]
    residual = [m for m in network.modules() if isinstance(m, InvertedResidual) and m.has_residual]
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert (len(convolutions), len(depthwise), len(residual)) == (20, 6, 4)
    assert 40_000 < weights < 50_000


@pytest.mark.parametrize(
    ("channels", "stride", "residual"), [(8, 1, True), (8, 2, False), (12, 1, False)]
)
def test_the_input_is_added_where_the_shapes_allow_it(
    channels: int, stride: int, residual: bool
) -> None:
    block = InvertedResidual(8, channels, stride)
    nn.init.zeros_(block.project[0].weight)  # then nothing but the input is left
    x = torch.rand(2, 8, 6, 6)
    y = block(x)
    assert block.has_residual == residual
    torch.testing.assert_close(y, x if residual else torch.zeros_like(y))
