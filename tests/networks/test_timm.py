"""Networks of timm of different kinds: trained, re-estimated, stripped, exported, verified."""

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

import quiesce as qs

from .training import check_stripped, trained

NETWORKS = {"convnext_atto": 64, "mobilenetv4_conv_small": 64, "efficientformerv2_s0": 224}
"""Name to image size; EfficientFormer is made for one size."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm(name, tmp_path) -> None:
    torch.manual_seed(0)
    size = NETWORKS[name]
    images, labels = torch.randn(4, 3, size, size), torch.arange(4)
    model = trained(
        timm.create_model(name, pretrained=False, num_classes=10),
        images[:2],
        [(images, labels)],
        lambda model, given: cross_entropy(model(given[0]), given[1]),
    )
    if any(isinstance(module, BatchNorm) for module in model.modules()):
        qs.reestimate_batchnorm(model, [(images, labels)])
    check_stripped(model, images)
    # logits of random weights are nearly tied: values are compared, not classes
    made = qs.export_onnx(model, tmp_path / "model.onnx", images, compare="max_error")
    assert made.verification is not None
    assert len(made.verification.layers) > 10
