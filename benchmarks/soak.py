"""A long run of a small network: does memory, the time of a step, or a file grow without end?

Runs `quiesce train` with both cures, loggers, recording, batch-norm measurements, evaluation and
checkpoints, on made-up pictures, and only observes it. Writes results/soak.json.

Usage: python benchmarks/soak.py [steps]    (20,000 by default, some five minutes)
"""

import statistics
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Callback, Trainer
from measuring import save
from torch import nn

import quiesce as qs
from quiesce.data.config import DataConfig
from quiesce.models.build import ModelConfig
from quiesce.recipes.recipe import Recipe
from quiesce.recipes.sections import (
    CureConfig,
    OptimizerConfig,
    RampConfig,
    RecordingConfig,
    SchemeConfig,
    TrainerConfig,
)
from quiesce.training import job, recipe_callback
from quiesce.training.display import Display
from quiesce.training.run import run

STEPS = 20_000
EPOCH = 500
EVERY = 100  # steps between two samples
WARM = 1_000  # steps that are not compared: allocators and caches fill
MOST_GROWTH = 0.02  # of memory
MOST_SLOWER = 0.05  # of a step's time, beside the reference
REFERENCE_STEPS = 30


class Sampler(Callback):
    """Records memory, time and files every `EVERY` steps.

    It records wall-clock time, and the time of a step of a float network that never changes: other
    load on the machine slows both equally.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[dict[str, float]] = []
        self._busy_s = 0.0
        self._network = small_network(ModelConfig(), num_classes=4)
        self._images = torch.ones(8, 3, 16, 16)

    def _reference_s(self) -> float:
        started_s = time.perf_counter()
        for _ in range(REFERENCE_STEPS):
            self._network(self._images).sum().backward()
        return (time.perf_counter() - started_s) / REFERENCE_STEPS

    def on_train_batch_start(self, *_: Any) -> None:
        self._started_s = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._busy_s += time.perf_counter() - self._started_s
        if trainer.global_step % EVERY == 0:
            files = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
            sample = {
                "step": trainer.global_step,
                "resident_mib": resident_bytes() / 2**20,
                "ms_per_step": 1e3 * self._busy_s / EVERY,
                "steps_of_reference": self._busy_s / EVERY / self._reference_s(),
                "files": len(files),
                "file_bytes": sum(files),
            }
            self.samples.append(sample)
            self._busy_s = 0.0


class SamplingDisplay(Display):
    """Shows nothing; its callback of the training stage is the sampler."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def training(self, title: str) -> Callback:
        return self.sampler


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def recipe(folder: Path, steps: int) -> Recipe:
    """Return a recipe that uses everything; cures act from the start, so all steps are equal."""
    return Recipe(
        name="soak",
        run=str(folder),
        data=DataConfig(
            name="made_up",
            image_size=16,
            classes=4,
            batch_size=8,
            train_images=8 * EPOCH,
            test_images=200,
            workers=0,
            mean=None,
            std=None,
        ),
        scheme=SchemeConfig(weight_bits=3, act_bits=3),
        cure=CureConfig(
            kind="freeze", threshold=RampConfig(start=0.1, end=0.02, begin=0.0), max_frozen=None
        ),
        weights_optimizer=OptimizerConfig(lr=0.01),
        recording=RecordingConfig(batchnorm_every=500, batchnorm_batches=2),
        trainer=TrainerConfig(max_epochs=steps // EPOCH, accelerator="cpu"),
    )


def small_network(config: ModelConfig, *, num_classes: int, **_: Any) -> nn.Module:
    """Return a network with steps of milliseconds: three kinds of convolution, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


def both_cures(config: CureConfig, total: int) -> list[qs.Cure]:
    """Add dampening to the cure of the recipe, which can have only one."""
    return [qs.Dampening(qs.cosine(1e-6, 1e-4, total, begin=0.0)), *MAKE_CURES(config, total)]


MAKE_CURES = recipe_callback.make_cures


def judge(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return how much each number grows over the compared steps.

    The growth is the median slope of all pairs of samples (Theil and Sen), robust to outliers.
    """
    warm = [sample for sample in samples if sample["step"] > WARM]
    length = warm[-1]["step"] - warm[0]["step"]
    growth = {}
    for what in ("resident_mib", "ms_per_step", "steps_of_reference"):
        slope = statistics.median(
            (late[what] - early[what]) / (late["step"] - early["step"])
            for early, late in combinations(warm, 2)
        )
        growth[what] = slope * length / statistics.median(sample[what] for sample in warm)
    return growth


def main() -> None:
    """Run, observe, and say whether anything grew."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        sampler = Sampler(folder)
        changes = (
            patch.object(recipe_callback, "make_cures", both_cures),
            patch.object(job, "build_model", small_network),
        )
        with changes[0], changes[1]:
            summary = run(recipe(folder, steps), SamplingDisplay(sampler))
        files = {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "tfevents" not in path.name
        }
    growth = judge(sampler.samples)
    for what, share in growth.items():
        print(f"{what}: {share:+.2%} after the first {WARM} steps")
    results = {
        "steps": steps,
        "growth": growth,
        "memory_flat": growth["resident_mib"] < MOST_GROWTH,
        "time_flat": growth["steps_of_reference"] < MOST_SLOWER,
        "seconds": summary["seconds"],
        "files": files,
        "samples": sampler.samples,
    }
    if steps == STEPS:
        print(save("soak", results))
    sys.exit(not (results["memory_flat"] and results["time_flat"]))


if __name__ == "__main__":
    main()
