"""Step times in other toolkits, with tracker and freezing; writes results/stacks.json.

Three series for each toolkit: alone, with the tracker, and with freezing, where a tenth of the
weights is frozen. Each toolkit trains a network that it supports: MobileNetV2 with 3.5 million
weights, or for torchao's quantize_, which quantizes linear layers, a small vision transformer with
5.5 million. Run it in the environment of `make test-stacks`.

Usage: python benchmarks/stacks.py [--rounds N] [--batch N] [--only TOOLKIT]
"""

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from measuring import interleaved, ratio, save
from torch import nn

import quiesce as qs
from networks import data, step

CONVOLUTIONS = "mobilenetv2_100"
SIZE = 224
FROZEN = 0.1
BITS = 4


def float_network(name: str = CONVOLUTIONS) -> nn.Module:
    """Return a timm network with random weights."""
    torch.manual_seed(0)
    options = {"img_size": SIZE} if name.startswith("vit") else {}
    return timm.create_model(name, num_classes=1000, **options).train()


def brevitas_network(images: torch.Tensor) -> nn.Module:
    """Return the network with weights quantized per channel."""
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat

    model = float_network()
    kinds: dict[type, Any] = {nn.Conv2d: qnn.QuantConv2d, nn.Linear: qnn.QuantLinear}
    for name, layer in list(model.named_modules()):
        if type(layer) in kinds:
            options: dict[str, Any] = {"bias": layer.bias is not None}
            options |= {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": BITS}
            if isinstance(layer, nn.Conv2d):
                sizes: tuple[Any, ...] = (layer.in_channels, layer.out_channels, layer.kernel_size)
                options |= {"stride": layer.stride, "padding": layer.padding}
                options |= {"groups": layer.groups}
            else:
                sizes = (layer.in_features, layer.out_features)
            made = kinds[type(layer)](*sizes, **options)
            made.load_state_dict(layer.state_dict())
            model.set_submodule(name, made)
    model(images[:2])
    return model


def torchao_network(images: torch.Tensor) -> nn.Module:
    """Return a vision transformer with linear layers quantized in groups of 32."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    model = float_network("vit_tiny_patch16_224")
    config = IntxFakeQuantizeConfig(torch.int4, group_size=32)
    quantize_(model, QATConfig(weight_config=config, step="prepare"))
    model(images[:2])
    return model


def pt2e_network(images: torch.Tensor) -> nn.Module:
    """Return the network prepared for XNNPACK."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    exported = torch.export.export(float_network(), (images,)).module()
    config = xnnpack.get_symmetric_quantization_config(
        is_per_channel=True, is_qat=True, weight_qmin=-7, weight_qmax=7
    )
    model = prepare_qat_pt2e(exported, xnnpack.XNNPACKQuantizer().set_global(config))
    model(images)
    return model


def modelopt_network(images: torch.Tensor) -> nn.Module:
    """Return the network with weights quantized per channel."""
    import modelopt.torch.quantization as mtq

    rules = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": BITS, "axis": 0}},
    ]
    config = {"quant_cfg": rules, "algorithm": "max"}
    return mtq.quantize(float_network(), config, lambda model: model(images[:2]))


def aimet_network(images: torch.Tensor) -> nn.Module:
    """Return the network with weights quantized per channel."""
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(float_network().eval(), images[:2], default_param_bw=BITS)
    sim.compute_encodings(lambda model, _: model(images[:2]), None)
    return sim.model.train()


NETWORKS: dict[str, Callable[[torch.Tensor], nn.Module]] = {
    "Brevitas": brevitas_network,
    "torchao quantize_": torchao_network,
    "torchao PT2E": pt2e_network,
    "ModelOpt": modelopt_network,
    "AIMET": aimet_network,
}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with a learning rate at which few codes change, as late in a training."""
    return torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)


def steps(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """Return a step of the toolkit alone, and of copies with the tracker and with freezing."""
    actions = {}
    for what in ("alone", "tracker", "freezing"):
        mine = copy.deepcopy(model)
        optimizer = optimizer_of(mine)
        if what != "alone":
            weights = qs.attach(mine)
            weights.compile()
            cures = [qs.Freezing(0.02, max_frozen=None)] if what == "freezing" else []
            if cures:
                for weight in weights:
                    where = torch.rand(weight.latent.shape) < FROZEN
                    weight.freeze(where, weight.codes())
            qs.Control(optimizer, weights, qs.OscillationTracker(weights), cures)
        actions[what] = step(mine, optimizer, batch)
    return actions


def main() -> None:
    """Time all toolkits that are installed, print ratios, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", choices=NETWORKS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    batch = data(chosen.batch, SIZE)
    results: dict[str, Any] = {"batch": chosen.batch, "size": SIZE, "bits": BITS, "frozen": FROZEN}
    for name, network in NETWORKS.items():
        if chosen.only not in (None, name):
            continue
        try:
            model = network(batch[0])
        except ImportError as error:
            print(f"{name}: not installed ({error.name}); left out")
            continue
        samples = interleaved(steps(model, batch), rounds=chosen.rounds)
        ratios = {what: ratio(samples, what, "alone") for what in ("tracker", "freezing")}
        weights = sum(weight.latent.numel() for weight in qs.attach(model))
        results[name] = {"weights": weights, "samples_s": samples, "ratios": ratios}
        alone = statistics.median(samples["alone"])
        print(
            f"{name}: {weights} weights, {alone:.2f} s alone; "
            + ", ".join(f"{what} {value:.3f}" for what, value in ratios.items()),
            flush=True,
        )
    if chosen.only is None:
        print(save("stacks", results))


if __name__ == "__main__":
    main()
