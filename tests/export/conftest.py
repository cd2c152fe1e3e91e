"""What the tests of export share."""

import pytest
import torch

from quiesce.export.interface import example_of
from quiesce.export.onnx import build_model

from .networks import calibrated, images, mobile


@pytest.fixture(scope="session")
def network():
    """A calibrated 3-bit network."""
    torch.manual_seed(0)
    return calibrated(mobile())


@pytest.fixture(scope="session")
def built(network):
    """It as an onnx.ModelProto, and its description; copy before changing."""
    return build_model(network, example_of(network, images()), pack="int8", opset=21)
