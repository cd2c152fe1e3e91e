"""Small networks in other quantization toolkits, all alike, for the tests of `quiesce.attach`."""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.cpp_extension import get_default_build_root

import quiesce as qs
from quiesce.stacks.attached import Attached
from support.attach_page import definitions

IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class World:
    """A network in one toolkit, and how that toolkit converts it."""

    name: str
    package: str
    build: Callable[[], nn.Module]
    """A prepared and calibrated network for `IMAGES`; the same at each call."""
    convert: Callable[[nn.Module, Path], Any] | None
    """What `quiesce.audit` takes; the second argument is an empty folder. None: not tested."""
    learned: bool = False
    """Whether scales are parameters."""
    compiles: bool = False
    """Whether to test torch.compile with it; takes seconds."""
    fullgraph: bool = True
    """Whether it compiles without graph breaks."""
    adapter: Callable[[nn.Module], qs.Adapter] | None = None
    """For toolkits that quiesce does not know itself."""

    @property
    def installed(self) -> bool:
        return is_installed(self.package)

    def attach(self, model: nn.Module) -> Attached:
        return qs.attach(model, adapter=self.adapter and self.adapter(model))


def is_installed(package: str) -> bool:
    """Whether a package can be used; NNCF first compiles an extension, which takes minutes."""
    if package == "nncf" and not any(Path(get_default_build_root()).glob("*/nncf/*/*/*.so")):
        return False
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is part of
        return False


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
    return World(
        f"torchao-{name}",
        "torchao",
        build,
        convert,
        learned="range_learning" in options,
        compiles=name in ("dynamic", "learned"),
    )


def pt2e_network(backend: str) -> nn.Module:
    """A network prepared by PT2E, with 4-bit weights for XNNPACK and 8-bit weights for X86.

    It has a batch norm, unless the name of the backend says otherwise. Converting it then takes 15
    seconds instead of one.
    """
    from torchao.quantization.pt2e import allow_exported_model_train_eval

    model = copy.deepcopy(_pt2e_prepared(backend))
    allow_exported_model_train_eval(model)
    model.train()
    model(IMAGES)
    return model


@cache
def _pt2e_prepared(backend: str) -> nn.Module:
    """Preparing takes seconds."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    torch.manual_seed(0)
    network = TinyLinear() if "no batch norm" in backend else Tiny(nn.Conv2d, nn.Linear)
    exported = torch.export.export(network, (IMAGES,)).module()
    return prepare_qat_pt2e(exported, _pt2e_quantizer(backend))


def _pt2e_quantizer(backend: str) -> Any:
    if "X86" in backend:
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        config = x86.get_default_x86_inductor_quantization_config(is_qat=True)
        return x86.X86InductorQuantizer().set_global(config)
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack

    config = xnnpack.get_symmetric_quantization_config(
        is_per_channel=True, is_qat=True, weight_qmin=-7, weight_qmax=7
    )
    return xnnpack.XNNPACKQuantizer().set_global(config)


def pt2e_converted(model: nn.Module, _: Path | None = None) -> nn.Module:
    """The graph with integer weights."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    model.eval()
    return convert_pt2e(model)


def modelopt_network(**options: Any) -> nn.Module:
    """A network in ModelOpt with 4-bit weights."""
    import modelopt.torch.quantization as mtq

    torch.manual_seed(0)
    model = TinyLinear() if "block_sizes" in options else Tiny(nn.Conv2d, nn.Linear)
    chosen = "*[35].weight_quantizer" if "block_sizes" in options else "*weight_quantizer"
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": chosen, "cfg": {"num_bits": 4, **options}, "enable": True},
        ],
        "algorithm": "max",
    }
    return mtq.quantize(model, config, lambda network: network(IMAGES))


def modelopt_folded(model: nn.Module, _: Path | None = None) -> nn.Module:
    """The network with quantized values as weights."""
    import modelopt.torch.quantization as mtq

    mtq.fold_weight(model)
    return model


def aimet_network() -> nn.Module:
    """`Tiny` in AIMET with 4-bit weights, and what `aimet_file` needs."""
    from aimet_torch.quantsim import QuantizationSimModel

    torch.manual_seed(0)
    network = Tiny(nn.Conv2d, nn.Linear)
    sim = QuantizationSimModel(network, IMAGES, default_param_bw=4, default_output_bw=8)
    sim.compute_encodings(lambda model, _: model(IMAGES), None)
    SIMS[id(sim.model)] = sim
    return sim.model


SIMS: dict[int, Any] = {}
"""The simulation of each network of `aimet_network`, by its id."""


def aimet_file(model: nn.Module, folder: Path) -> Path:
    """The network as AIMET exports it."""
    model.eval()
    SIMS[id(model)].export(str(folder), "network", IMAGES)
    return folder / "network.onnx"


class OwnQuantizer(nn.Module):
    """Rounds a weight to codes from -3 to 4, zero point 0.5, with a learned scale."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.detach().abs().amax(1, keepdim=True) / 3)

    def forward(self, weight: Tensor) -> Tensor:
        place = weight / self.scale + 0.5
        inside = place.clamp(-3, 4)
        code = inside + (torch.round(inside) - inside).detach()
        return self.scale * (code - 0.5)


class OwnLinear(nn.Linear):
    """A layer of a toolkit that a user has written."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.quantizer = OwnQuantizer(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.quantizer(self.weight), self.bias)


def own_network() -> nn.Module:
    """A convolution in float and two layers of that toolkit."""
    torch.manual_seed(0)
    model = TinyLinear()
    model[3], model[5] = OwnLinear(288, 32), OwnLinear(32, 5)
    return model


def own_folded(model: nn.Module, _: Path | None = None) -> nn.Module:
    """A copy of the network with quantized values as weights."""
    model = copy.deepcopy(model)
    for layer in (model[3], model[5]):
        layer.weight.data = layer.quantizer(layer.weight).detach()
    return model


def own_adapter(model: nn.Module, **changes: Any) -> qs.Adapter:
    """The functions that reach it."""

    def grid(name: str) -> qs.WeightGrid:
        return qs.WeightGrid(model.get_submodule(name).quantizer.scale, -3, 4, 0.5)

    def converted(name: str, folded: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        layer, scale = folded.get_submodule(name), grid(name).scale.detach()
        return torch.round(layer.weight / scale + 0.5), scale, torch.tensor(0.5)

    functions: dict[str, Any] = {
        "params": lambda model: {name: model.get_submodule(name).weight for name in ("3", "5")},
        "quantize": lambda name: model.get_submodule(name).quantizer.forward(
            model.get_submodule(name).weight
        ),
        "grid": grid,
        "write": lambda name, values: model.get_submodule(name).weight.data.copy_(values),
        "hook": lambda name: model.get_submodule(name).quantizer,
        "scales": lambda name: [model.get_submodule(name).quantizer.scale],
        "converted": converted,
    }
    return qs.Adapter(**(functions | changes))


def quanto_network() -> nn.Module:
    """`TinyLinear` in Quanto with 4-bit weights, some in groups."""
    from optimum.quanto import qint4, quantize

    torch.manual_seed(0)
    model = TinyLinear()
    quantize(model, weights=qint4)
    return model


def quanto_frozen(model: nn.Module, _: Path | None = None) -> nn.Module:
    """The network with integer weights."""
    from optimum.quanto import freeze

    freeze(model)
    return model


def quanto_adapter(model: nn.Module) -> qs.Adapter:
    return definitions("Another toolkit")["quanto_adapter"](model)


def nncf_network() -> nn.Module:
    """`Tiny` in NNCF with weights of 4 bits, which NNCF itself does not offer."""
    import nncf
    import nncf.torch
    from nncf.torch.quantization.layers import BaseQuantizer

    torch.manual_seed(0)
    model = nncf.quantize(Tiny(nn.Conv2d, nn.Linear), nncf.Dataset([IMAGES]), subset_size=1)
    adapter = nncf_adapter(model)
    for name in adapter.params(model):
        quantizer: Any = adapter.hook(name)
        assert isinstance(quantizer, BaseQuantizer)
        quantizer.num_bits = 4
    return model.train()


def nncf_adapter(model: nn.Module) -> qs.Adapter:
    adapter = definitions("Another toolkit", 1)["nncf_adapter"](model, IMAGES)
    model.train()
    return adapter


def brevitas_world(name: str, quantizer: str, **options: Any) -> World:
    def build() -> nn.Module:
        import brevitas.quant

        return brevitas_network(weight_quant=getattr(brevitas.quant, quantizer), **options)

    learned = "parameter" in str(options.get("weight_scaling_impl_type"))
    return World(
        f"brevitas-{name}",
        "brevitas",
        build,
        brevitas_file,
        learned=learned,
        compiles=name in ("tensor", "learned"),
    )


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
    World(
        "pt2e-xnnpack",
        "executorch",
        partial(pt2e_network, "XNNPACK"),
        pt2e_converted,
        compiles=True,
    ),
    World(
        "modelopt-channel",
        "modelopt",
        partial(modelopt_network, axis=0),
        modelopt_folded,
        compiles=True,
        fullgraph=False,
    ),
    World("modelopt-tensor", "modelopt", partial(modelopt_network, axis=None), modelopt_folded),
    World(
        "modelopt-block",
        "modelopt",
        partial(modelopt_network, block_sizes={-1: 32, "type": "static"}),
        modelopt_folded,
    ),
    World("aimet", "aimet_torch", aimet_network, aimet_file, learned=True),
    World(
        "own", "torch", own_network, own_folded, learned=True, compiles=True, adapter=own_adapter
    ),
    World("quanto", "optimum.quanto", quanto_network, quanto_frozen, adapter=quanto_adapter),
    World("nncf", "nncf", nncf_network, None, learned=True, adapter=nncf_adapter),
    World("pt2e-x86", "torchao", partial(pt2e_network, "X86, no batch norm"), pt2e_converted),
]
