"""Networks that people use, exported and verified."""

import onnx
import pytest
import torch

import quiesce as qs
from imagenet import labelled_pictures
from quiesce.models import ModelConfig, build_model

from .networks import shaken

NETWORKS = {
    "mobilenetv2_100": 64,
    "mobilenetv3_small_100": 64,
    "resnet18": 64,
    "vit_tiny_patch16_224": 224,
}


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_random_weights(name, bits, tmp_path) -> None:
    size = NETWORKS[name]
    images = torch.randn(4, 3, size, size)
    network = build_model(ModelConfig(name=name), num_classes=100, input_shape=(3, size, size))
    qs.prepare(shaken(network).eval(), qs.Scheme(weight_bits=bits, act_bits=bits), images[:1])
    qs.calibrate(network, [images])
    made = qs.export_onnx(network, tmp_path / "model.onnx", images)
    onnx.checker.check_model(made.path, full_check=True)
    assert made.verification is not None
    assert made.verification.passed
    assert sum(layer.optimisations for layer in made.verification.layers) == 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    return labelled_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "right"), [(8, 17), (4, None)])
def test_lite0_of_imagenet_after_calibration_alone(pictures, bits, right, tmp_path) -> None:
    images, labels = pictures
    config = ModelConfig(name="tf_efficientnet_lite0", weights="package")
    network = build_model(config, num_classes=1000, input_shape=(3, 224, 224)).eval()
    scheme = qs.Scheme(weight_bits=bits, act_bits=8, per_channel=True)
    qs.prepare(network, scheme, images[:1])
    qs.calibrate(network, [images])
    qs.export_onnx(network, tmp_path / "model.onnx", images[:2], verify=False)
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    found = qs.verify_onnx(network, tmp_path / "model.onnx", batches)
    assert found.passed
    assert right is None or found.right_runtime >= right
