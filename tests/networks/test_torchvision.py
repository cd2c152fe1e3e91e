"""torchvision's detectors and a segmentation network: trained, re-estimated, stripped, exported."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import detection
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import quiesce as qs

from .training import check_stripped, trained

pytestmark = pytest.mark.slow

DETECTORS = {
    "ssdlite": detection.ssdlite320_mobilenet_v3_large,
    "fasterrcnn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
}


def batch() -> tuple[tuple[Tensor, ...], tuple[dict[str, Tensor], ...]]:
    """Two images of different sizes and their targets, as torchvision's examples collate them."""
    generator = torch.Generator().manual_seed(0)
    images = tuple(torch.rand(3, *size, generator=generator) for size in ((96, 128), (128, 96)))
    targets = tuple(
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
        for _ in images
    )
    return images, targets


def loss(model: nn.Module, given: tuple) -> Tensor:
    images, targets = given
    return sum(model(list(images), list(targets)).values())  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request) -> nn.Module:
    torch.manual_seed(0)
    model = DETECTORS[request.param](weights=None, weights_backbone=None, num_classes=3)
    return trained(model, list(batch()[0]), [batch()], loss)


def test_a_detector_is_reestimated_and_stripped(detector) -> None:
    kl = qs.reestimate_batchnorm(detector, [batch()])
    assert len(kl) == sum(isinstance(m, nn.BatchNorm2d) for m in detector.modules())
    check_stripped(detector, list(batch()[0]))


# test_detection_page.py exports the backbone of ssdlite
@pytest.mark.parametrize("detector", ["fasterrcnn"], indirect=True)
def test_the_backbone_of_a_detector_is_exported(detector, tmp_path) -> None:
    pictures = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    # one code of millions may differ; then the values of a network with random weights are others
    made = qs.export_onnx(
        detector.backbone, tmp_path / "model.onnx", pictures, compare=lambda ours, theirs: 1.0
    )
    assert made.verification is not None
    assert made.verification.passed
    assert "0" in {name for name, _ in detector.backbone(pictures[:1]).items()}


def test_lraspp_at_any_size(tmp_path) -> None:
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    pictures, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
    trained(
        model,
        pictures,
        [(pictures, labels)],
        lambda model, given: cross_entropy(model(given[0])["out"], given[1]),
    )
    qs.reestimate_batchnorm(model, [(pictures, labels)])
    check_stripped(model, pictures)
    made = qs.export_onnx(
        model, tmp_path / "model.onnx", pictures, dynamic={2: "height", 3: "width"}, verify=False
    )
    found = qs.verify_onnx(model, made.path, [(torch.randn(2, 3, 96, 64), None), pictures])
    assert found.passed, found.verdict
    assert (found.items, found.compared) == ("pixels", 2 * 96 * 64 + 2 * 64 * 64)
