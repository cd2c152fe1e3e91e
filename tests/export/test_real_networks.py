"""Networks that people use, exported and verified."""

import importlib.util
from pathlib import Path

import onnx
import pytest
import torch

import quiesce as qs
from quiesce.data import DataConfig, build_data
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
    """20 labelled pictures of ImageNet, from the package foolbox: images and labels."""
    root = tmp_path_factory.mktemp("pictures")
    package = importlib.util.find_spec("foolbox")
    assert package is not None
    assert package.origin is not None
    for picture in (Path(package.origin).parent / "data").glob("imagenet_*.jpg"):
        for half in ("train", "val"):
            folder = root / half / f"{int(picture.stem.split('_')[2]):04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / picture.name).symlink_to(picture)
    config = DataConfig(
        name="folder",
        folder=str(root),
        image_size=224,
        batch_size=20,
        interpolation="bicubic",
        mean=(0.498,),
        std=(0.502,),
    )
    data = build_data(config, seed=0)
    images, labels = next(iter(data.test))
    return images, torch.tensor([int(data.classes[label]) for label in labels])


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
