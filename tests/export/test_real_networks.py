"""Networks that people use, exported and verified."""

import onnx
import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.inference import inference
from quiesce.models.build import ModelConfig, build_model
from support.imagenet import labelled_pictures

from .networks import shaken

NETWORKS = {
    "mobilenetv2_100": (64, 3),
    "mobilenetv3_small_100": (64, 4),
    "resnet18": (64, 3),
    "vit_tiny_patch16_224": (224, 4),
}
"""Name to image size and bits."""

CLASSES = 100


def teach_the_head(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Fit the classifier behind a random body to the images, and return their labels.

    Logits of a random classifier are nearly tied: one code in a million, which layer norms and
    softmax in another order of summation move, changes the class of one image in four. Those of a
    trained one are apart, and so are these: least squares on the features as they are rounded.
    """
    head: nn.Linear = network.get_classifier()
    seen = []
    handle = head.input_quantizer.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad(), inference(network):
        network(images)
        handle.remove()
        labels = torch.arange(len(images))
        wanted = 10.0 * nn.functional.one_hot(labels, CLASSES).float()
        features = torch.cat([seen[0], torch.ones(len(images), 1)], dim=1)
        solved = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
        head.latent.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
    return labels


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_random_weights(name, tmp_path) -> None:
    size, bits = NETWORKS[name]
    images = torch.randn(8, 3, size, size)
    network = build_model(ModelConfig(name=name), num_classes=CLASSES, input_shape=(3, size, size))
    qs.prepare(shaken(network).eval(), qs.Scheme(weight_bits=bits, act_bits=bits), images[:1])
    qs.calibrate(network, [images])
    labels = teach_the_head(network, images)
    qs.calibrate(network, [images])
    made = qs.export_onnx(network, tmp_path / "model.onnx", images, verify=False)
    onnx.checker.check_model(made.path, full_check=True)
    found = qs.verify_onnx(network, made.path, [(images, labels)])
    assert found.passed, found.verdict
    assert found.right_trained == found.right_runtime == len(images)
    changed = sum(layer.optimisations for layer in found.layers)
    assert changed <= 1e-6 * sum(layer.codes for layer in found.layers)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    return labelled_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.slow
def test_lite0_of_imagenet_after_calibration_alone(pictures, tmp_path) -> None:
    images, labels = pictures
    config = ModelConfig(name="tf_efficientnet_lite0", weights="package")
    network = build_model(config, num_classes=1000, input_shape=(3, 224, 224)).eval()
    scheme = qs.Scheme(weight_bits=8, act_bits=8, per_channel=True)
    qs.prepare(network, scheme, images[:1])
    qs.calibrate(network, [images])
    qs.export_onnx(network, tmp_path / "model.onnx", images[:2], verify=False)
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    found = qs.verify_onnx(network, tmp_path / "model.onnx", batches)
    assert found.passed
    assert found.right_runtime >= 17


@pytest.mark.slow
def test_lite0_of_imagenet_in_integers_at_8_bits(pictures, tmp_path) -> None:
    images, labels = pictures
    config = ModelConfig(name="tf_efficientnet_lite0", weights="package")
    network = build_model(config, num_classes=1000, input_shape=(3, 224, 224)).eval()
    scheme = qs.Scheme(weight_bits=7, act_bits=8, per_channel=True, residual="quantized")
    qs.prepare(network, scheme, images[:1])
    qs.calibrate(network, [images])
    made = qs.export_onnx(
        network, tmp_path / "model.onnx", images[:2], round_biases=True, verify=False
    )
    # not the first and the last layer, nor the convolution before the average
    assert [each.name for each in made.description.layers if not each.integer] == [
        "conv_stem",
        "conv_head",
        "classifier",
    ]
    batches = list(zip(images.split(5), labels.split(5), strict=True))
    found = qs.verify_onnx(network, made.path, batches)
    assert found.passed, found.verdict
    assert found.right_runtime >= 17
