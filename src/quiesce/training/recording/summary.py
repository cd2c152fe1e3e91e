"""The measurements of a run, and the content of summary.json."""

import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from quiesce.diagnosis import layer_kind
from quiesce.oscillation.layer_report import LayerReport
from quiesce.oscillation.tracker import OSCILLATING
from quiesce.parallel.wrappers import named_modules
from quiesce.quantization.prepare import quantized_weights
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.contents import Divergence, Metric, Oscillation, SummarizedLayer, Summary
from quiesce.training.recording.diagnosis_file import Diagnosis
from quiesce.training.recording.oscillation_shares import over, up_to

PACKAGES = ("quiesce", "torch", "lightning", "timm", "torchvision")


@dataclass(kw_only=True)
class Measured:
    """Measurements of a run, in the order of its stages."""

    top1_percent: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(("float", "rounded", "trained", "reestimated"))
    )
    """Accuracy of the float network, after calibration, after training, and after batch-norm
    re-estimation (None if nothing is re-estimated); also after quantization correction, if the
    recipe has it."""
    metric: dict[str, float | None] = field(default_factory=dict)
    """Score of the same states by the metric of the recipe; empty without one."""
    train_loss: float | None = None
    """Cross-entropy, averaged over the last epoch."""
    steps: int = 0
    """Optimizer steps of the quantized stage."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage, and of all."""
    seconds_per_step: float | None = None
    """Time of an optimizer step of the quantized stage, without data loading and validation."""
    layers: list[LayerReport] = field(default_factory=list)
    """Oscillation of each layer at the end of training."""
    momentum: float | None = None
    """Momentum of the tracker."""
    cures: list[dict[str, Any]] = field(default_factory=list)
    """What each cure has done, see `quiesce.Control.report`."""
    kl: dict[str, Tensor] = field(default_factory=dict)
    """Batch norm to KL(re-estimated || running) of its channels, in nats."""
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    """The content of diagnosis.json."""


def summarize(recipe: Recipe, network: nn.Module, measured: Measured) -> dict[str, Any]:
    """Return the content of summary.json: shares from 0 to 1, times in seconds, KL in nats."""
    depthwise = depthwise_layers(network)
    low_bit = up_to(recipe.scheme.weight_bits, measured.layers)
    return Summary(
        name=recipe.name,
        seed=recipe.seed,
        top1_percent=measured.top1_percent,
        metric=_metric(recipe.metric, measured.metric),
        train_loss=measured.train_loss,
        steps=measured.steps,
        seconds=measured.seconds,
        seconds_per_step=measured.seconds_per_step,
        size_bytes=size_bytes(network),
        oscillation=Oscillation(
            cut=OSCILLATING,
            momentum=measured.momentum,
            low_bits=recipe.scheme.weight_bits,
            low_bit=over(low_bit),
            low_bit_depthwise=over([layer for layer in low_bit if layer.name in depthwise]),
            every_bit=over(measured.layers),
            layers=tuple(
                SummarizedLayer(**asdict(layer), depthwise=layer.name in depthwise)
                for layer in measured.layers
            ),
        ),
        cures=tuple(measured.cures),
        batchnorm_kl={
            name: Divergence(mean=kl.mean().item(), max=kl.max().item())
            for name, kl in measured.kl.items()
        },
        versions=versions(),
    ).tree()


def size_bytes(network: nn.Module) -> int:
    """Return the bytes of the parameters: codes at their bits, all others as float32."""
    bits = {id(weight.latent): weight.grid.bits for weight in quantized_weights(network)}
    total = sum(each.numel() * bits.get(id(each), 32) for each in network.parameters())
    return -(-total // 8)


def _metric(name: str | None, scores: dict[str, float | None]) -> Metric | None:
    if name is None:
        return None
    found = (scores.get(state) for state in ("corrected", "reestimated", "trained"))
    final = next((score for score in found if score is not None), None)
    return Metric(name=name, scores=scores, final=final)


def depthwise_layers(network: nn.Module) -> set[str]:
    """Return the names of the depth-wise convolutions."""
    return {name for name, m in named_modules(network) if layer_kind(m) == "depth-wise"}


def versions() -> dict[str, str]:
    """Return the versions of the packages that the results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
