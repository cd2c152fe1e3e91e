"""Small networks in other quantization toolkits, all alike, for the tests of `quiesce.attach`."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class World:
    """A network in one toolkit, and how that toolkit converts it."""

    name: str
    package: str
    build: Callable[[], nn.Module]
    """A prepared and calibrated network for `IMAGES`; the same at each call."""
    convert: Callable[[nn.Module, Path], Any]
    """What `quiesce.audit` takes; the second argument is an empty folder."""
    learned: bool = False
    """Whether scales are parameters."""
    compiles: bool = True
    exact: bool = True
    """Whether no code at all changes in the conversion, after `before_convert`."""

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


class Tiny(nn.Module):
    """Convolution, batch norm, depth-wise convolution and a linear head."""

    def __init__(self, conv: Callable[..., nn.Module], linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.c1 = conv(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.c2 = conv(8, 8, 3, groups=8)
        self.fc = linear(128, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.c1(images)))
        x = nn.functional.avg_pool2d(torch.relu(self.c2(x)), 2)
        return self.fc(x.flatten(1))


def brevitas_network(**options: Any) -> nn.Module:
    """`Tiny` in Brevitas with 3-bit weights."""
    import brevitas.nn as qnn

    torch.manual_seed(0)
    options = {"weight_bit_width": 3, **options}
    model = Tiny(
        lambda *args, **kwargs: qnn.QuantConv2d(*args, **kwargs, **options),
        lambda *args, **kwargs: qnn.QuantLinear(*args, **kwargs, bias=True, **options),
    )
    model(IMAGES)
    return model


def brevitas_file(model: nn.Module, folder: Path) -> Path:
    """The network as a QCDQ ONNX file."""
    from brevitas.export import export_onnx_qcdq

    path = folder / "network.onnx"
    model.eval()
    export_onnx_qcdq(model, args=IMAGES, export_path=str(path), dynamo=False, opset_version=17)
    return path


class TinyLinear(nn.Sequential):
    """A convolution and two linear layers, for toolkits that leave convolutions in float."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 32),
            nn.ReLU(),
            nn.Linear(32, 5),
        )


def torchao_network(**options: Any) -> nn.Module:
    """`TinyLinear` with 4-bit weights in groups of 32."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
    from torchao.quantization.qat.api import initialize_fake_quantizers

    torch.manual_seed(0)
    model = TinyLinear()
    config = IntxFakeQuantizeConfig(torch.int4, **{"group_size": 32, **options})
    quantize_(model, QATConfig(weight_config=config, step="prepare"))
    if options.get("range_learning"):
        initialize_fake_quantizers(model, (IMAGES,))
    model(IMAGES)
    return model


def torchao_converted(model: nn.Module, **options: Any) -> nn.Module:
    """The network after torchao's conversion, which changes it in place."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
    from torchao.quantization.qat import QATConfig

    options = {"granularity": PerGroup(32), **options}
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, **options)
    quantize_(model, QATConfig(config, step="convert"))
    return model


def torchao_world(
    name: str, channels: bool = False, symmetric: bool = True, **options: Any
) -> World:
    def convert(model: nn.Module, _: Path) -> nn.Module:
        from torchao.quantization import MappingType, PerAxis

        changes: dict[str, Any] = {"granularity": PerAxis(0)} if channels else {}
        if not symmetric:
            changes["mapping_type"] = MappingType.ASYMMETRIC
        return torchao_converted(model, **changes)

    if channels:
        options |= {"granularity": "per_channel", "group_size": None}
    build = partial(torchao_network, is_symmetric=symmetric, **options)
    return World(f"torchao-{name}", "torchao", build, convert, learned="range_learning" in options)


def brevitas_world(name: str, quantizer: str, **options: Any) -> World:
    def build() -> nn.Module:
        import brevitas.quant

        return brevitas_network(weight_quant=getattr(brevitas.quant, quantizer), **options)

    learned = "parameter" in str(options.get("weight_scaling_impl_type"))
    return World(f"brevitas-{name}", "brevitas", build, brevitas_file, learned=learned)


WORLDS = [
    brevitas_world("tensor", "Int8WeightPerTensorFloat"),
    brevitas_world("channel", "Int8WeightPerChannelFloat"),
    brevitas_world("full-range", "Int8WeightPerChannelFloat", weight_narrow_range=False),
    brevitas_world("shifted", "ShiftedUint8WeightPerChannelFloat"),
    brevitas_world(
        "learned",
        "Int8WeightPerChannelFloat",
        weight_scaling_impl_type="parameter_from_stats",
    ),
    torchao_world("dynamic"),
    torchao_world("channel", channels=True),
    torchao_world("asymmetric", symmetric=False),
    torchao_world("fixed", is_dynamic=False),
    torchao_world("learned", is_dynamic=False, range_learning=True),
]
