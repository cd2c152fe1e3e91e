"""3-bit digits in Brevitas and torchao PT2E: plain, with dampening, and with freezing.

The network and the hyper-parameters are those of the recipes mnist_lsq_w3a3, mnist_dampen_w3a3 and
mnist_freeze_w3a3; quantizers, their gradients and their scales are those of the toolkit. Run it in
the environment of `make test-stacks`.

Usage: python experiments/stacks/run.py [--toolkits brevitas pt2e] [--cures none dampening freezing]
           [--seeds 0 1 2] [--steps N]     trains what runs.json does not have yet
       python experiments/stacks/run.py --table     prints the table of runs.json
"""

import argparse
import copy
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.data.build import build_data
from quiesce.data.config import DataConfig
from quiesce.models.small_mobilenet import SmallMobileNetV2

HERE = Path(__file__).parent
RUNS = HERE / "runs.json"
EPOCHS, BATCH, BITS, OUTER_BITS = 8, 32, 3, 8
OUTER = ("stem.0", "classifier")
CURES = ("none", "dampening", "freezing")
TOOLKITS = ("brevitas", "pt2e")

Pair = tuple[Tensor, Tensor]


class Digits:
    """The 5,000 digits as batches, in the order of one seed."""

    def __init__(self, seed: int) -> None:
        config = DataConfig(name="mnist5k", batch_size=BATCH)
        self._data = build_data(config, seed=seed)
        self.test: list[Pair] = list(self._data.test)

    def epoch(self, epoch: int) -> Iterator[Pair]:
        """Yield shuffled and shifted training images."""
        self._data.train.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        yield from self._data.train


def float_network(digits: Digits, seed: int) -> nn.Module:
    """Return the network after 8 epochs in float; made once for each seed."""
    path = Path("runs") / "stacks" / f"float{seed}.pt"
    torch.manual_seed(seed)
    model = SmallMobileNetV2()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 125)
    for epoch in range(EPOCHS):
        for images, labels in digits.epoch(epoch):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def brevitas_network(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in Brevitas, with one learned scale for each weight tensor."""
    import brevitas.nn as qnn
    from brevitas.inject.enum import RestrictValueType, ScalingImplType
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerTensorFloat,
        Uint8ActPerTensorFloat,
    )

    class LearnedWeight(Int8WeightPerTensorFloat):
        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
        restrict_scaling_type = RestrictValueType.FP

    signed = _signed_inputs(model, images)
    model = copy.deepcopy(model)
    for name in signed:
        layer: Any = model.get_submodule(name)
        bits = OUTER_BITS if name in OUTER else BITS
        options: dict[str, Any] = {"weight_quant": LearnedWeight, "weight_bit_width": bits}
        options["bias"] = layer.bias is not None
        if name != OUTER[0]:  # the image stays in float
            kind = Int8ActPerTensorFloat if signed[name] else Uint8ActPerTensorFloat
            options |= {"input_quant": kind, "input_bit_width": bits}
        if isinstance(layer, nn.Conv2d):
            shape = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
            sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
            made = qnn.QuantConv2d(*sizes, **shape, **options)
        else:
            made = qnn.QuantLinear(layer.in_features, layer.out_features, **options)
        made.load_state_dict(layer.state_dict(), strict=False)
        model.set_submodule(name, made)
    model(images)
    return model


def _signed_inputs(model: nn.Module, images: Tensor) -> dict[str, bool]:
    names = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    seen: dict[str, bool] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, x: seen.update({names[layer]: bool((x[0] < 0).any())})
        )
        for layer in names
    ]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    model.train()
    return seen


def pt2e_network(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in torchao PT2E for XNNPACK, with batch norms folded into weights."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    def config(bits: int) -> Any:
        high = 2 ** (bits - 1) - 1
        return xnnpack.get_symmetric_quantization_config(
            is_per_channel=True,
            is_qat=True,
            act_qmin=-high - 1,
            act_qmax=high,
            weight_qmin=-high,
            weight_qmax=high,
        )

    quantizer = xnnpack.XNNPACKQuantizer().set_global(config(BITS))
    for name in OUTER:
        quantizer.set_module_name(name, config(OUTER_BITS))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(copy.deepcopy(model), (images,), dynamic_shapes=({0: batch},))
    made = prepare_qat_pt2e(exported.module(), quantizer)
    allow_exported_model_train_eval(made)
    made.train()
    made(images)
    return made


def train(toolkit: str, cure: str, seed: int, digits: Digits, most: int | None) -> dict[str, Any]:
    """Return the numbers of one run."""
    started = time.perf_counter()
    calibration = next(digits.epoch(0))[0]
    network = {"brevitas": brevitas_network, "pt2e": pt2e_network}[toolkit]
    model = network(float_network(digits, seed), calibration)
    weights = qs.attach(model)
    total = EPOCHS * 125
    scales = [scale for weight in weights for scale in weight.scale_parameters]
    known = {id(scale) for scale in scales}
    others = [each for each in model.parameters() if id(each) not in known]
    optimizer = torch.optim.SGD(others, lr=0.05, momentum=0.9, weight_decay=2.5e-5)
    optimizers = [optimizer, *([torch.optim.Adam(scales, lr=1e-5)] if scales else [])]
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.04 + 0.96 * (1 + math.cos(math.pi * step / total)) / 2
    )
    tracker = qs.OscillationTracker(weights, momentum=0.01)
    cures: dict[str, list[qs.Cure]] = {
        "none": [],
        "dampening": [qs.Dampening(qs.cosine(0.0, 0.01, total, begin=0.25))],
        "freezing": [qs.Freezing(qs.cosine(0.02, 0.005, total, begin=0.1), max_frozen=0.9)],
    }
    control = qs.Control(optimizers, weights, tracker, cures[cure])
    losses = []
    for epoch in range(EPOCHS):
        for images, labels in digits.epoch(EPOCHS + epoch):
            if control.step == most:
                break
            loss = cross_entropy(model(images), labels)
            for each in optimizers:
                each.zero_grad()
            (loss + control.penalty()).backward()
            for each in optimizers:
                each.step()
            rate.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).double() for images, labels in digits.test]
    low = [layer for layer in tracker.report() if layer.bits is not None and layer.bits <= BITS]
    count = sum(layer.weights for layer in low)
    return {
        "toolkit": toolkit,
        "cure": cure,
        "seed": seed,
        "steps": control.step,
        "top1": 100 * torch.cat(right).mean().item(),
        "loss": statistics.fmean(losses[-125:]),
        "oscillating": 100 * sum(layer.oscillating * layer.weights for layer in low) / count,
        "frozen": 100 * sum(layer.frozen * layer.weights for layer in low) / count,
        "flips_per_step": sum(layer.flips_per_step for layer in low),
        "grid_changes_per_step": sum(layer.total_grid_changes or 0 for layer in low)
        / max(1, control.step - 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Return the means of the runs as a table in Markdown."""
    columns = ("top1", "loss", "oscillating", "frozen", "flips_per_step", "grid_changes_per_step")
    lines = [
        "| toolkit | cure | n | top-1 % | loss | oscil. % | frozen % | flips/step | by grid/step |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for toolkit in TOOLKITS:
        for cure in CURES:
            mine = [run for run in runs if (run["toolkit"], run["cure"]) == (toolkit, cure)]
            if len(mine) > 1:
                cells = [_cell([run[key] for run in mine]) for key in columns]
                lines.append(f"| {toolkit} | {cure} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    digits = 4 if max(values) < 1 else 2
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    """Train, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toolkits", nargs="+", choices=TOOLKITS, default=TOOLKITS)
    parser.add_argument("--cures", nargs="+", choices=CURES, default=CURES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="fewer steps, to try it; nothing is written")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    runs = json.loads(RUNS.read_text("utf-8"))["runs"] if RUNS.exists() else []
    if chosen.table:
        print(table(runs))
        return
    warnings.simplefilter("ignore")
    done = {(run["toolkit"], run["cure"], run["seed"]) for run in runs}
    for seed in chosen.seeds:
        digits = Digits(seed)
        for toolkit in chosen.toolkits:
            for cure in chosen.cures:
                if chosen.steps is None and (toolkit, cure, seed) in done:
                    continue
                run = train(toolkit, cure, seed, digits, chosen.steps)
                print(run, flush=True)
                if chosen.steps is None:
                    runs.append(run)
                    RUNS.write_text(json.dumps({"version": 1, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
