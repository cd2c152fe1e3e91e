"""Measures how much loss the final codes of oscillating weights cause, for `quiesce probe`.

Each oscillating weight ended on one of two codes by chance. Codes that are drawn again, and codes
that are learned from the task's loss, show whether a better network exists. Everything else is
fixed: the other weights, all scales, and the batch-norm statistics, which are re-estimated once for
the trained network.

Source: table 3 of Nagel et al., ICML 2022, arXiv:2203.11086.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from msgspec.structs import replace
from torch.nn.functional import cross_entropy

from quiesce.after_training.restored import Restored, restore
from quiesce.diagnosis import Choice, draw, learn, oscillating_choices, replaced
from quiesce.errors import RecipeError, TrackingError
from quiesce.run_folder.contents import Learned, ProbeFile, Sampled, Scored, Spread
from quiesce.run_folder.folder import PROBE, write_json
from quiesce.training.display import Display
from quiesce.training.scores import Batch, Score


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Numbers of samples, batches and steps."""

    samples: int = 20
    """Number of networks with drawn codes, at least 1."""
    batches: int = 50
    """Training batches to measure the loss on and to learn from, at least 1."""
    steps: int = 300
    """Optimizer steps to learn codes, at least 1."""
    seed: int = 0
    """Seed of the drawn codes."""

    def __post_init__(self) -> None:
        for name in ("samples", "batches", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


class Probe:
    """Measurements of one network."""

    def __init__(self, restored: Restored, config: ProbeConfig, display: Display) -> None:
        self.restored = restored
        self.config = config
        self.display = display
        self.choices = _choices(restored)

    def tree(self) -> dict[str, Any]:
        """Measure everything, and return the content of probe.json."""
        weights = sum(len(choice.index) for choice in self.choices)
        tracker = self.restored.tracker
        file = ProbeFile(
            weights=weights,
            step=tracker.steps,
            momentum=tracker.momentum,
            samples=self.config.samples,
        )
        if not weights:
            return file.tree()
        with self.restored.reestimated(self.display):
            return replace(
                file,
                before=Scored(**self._score("before")._asdict()),
                sampled=self._sampled(),
                learned=self._learned(),
            ).tree()

    def _sampled(self) -> Sampled:
        generator = torch.Generator().manual_seed(self.config.seed)
        each = []
        for number in range(1, self.config.samples + 1):
            with replaced(self.choices, draw(self.choices, generator)):
                each.append(tuple(self._score(f"sample {number}")))
        losses, top1s = zip(*each, strict=True)
        return Sampled(
            loss=_spread(losses, min), top1_percent=_spread(top1s, max), each=tuple(each)
        )

    def _learned(self) -> Learned:
        network, steps = self.restored.network, self.config.steps
        batches = self.display.track(self._endless(), "learning", steps)
        codes = learn(network, self.choices, batches, cross_entropy, steps=steps)
        with replaced(self.choices, codes):
            score = self._score("learned")
        changed = sum(
            int((new != choice.now).sum()) for choice, new in zip(self.choices, codes, strict=True)
        )
        return Learned(**score._asdict(), changed=changed, steps=steps)

    def _score(self, title: str) -> Score:
        network, measuring = self.restored.network, self.restored.measuring(self.display)
        loss = measuring.training_loss(network, title, self.config.batches)
        return Score(loss, measuring.top1(network, title))

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.restored.measuring(Display()).training("", self.config.batches)


def probe(
    run: Path,
    config: ProbeConfig,
    recipe: str | None = None,
    flags: Sequence[str] = (),
    display: Display | None = None,
) -> dict[str, Any]:
    """Draw and learn the codes of the oscillating weights of a run, and measure the networks.

    In a run folder, probe.json is written or replaced. The network on disk does not change.

    Args:
        run: A run folder, finished or not, or a checkpoint.
        config: Numbers of samples, batches and steps.
        recipe: Name or path of the recipe, if `run` is a checkpoint.
        flags: Flags that override the recipe: ["--data.folder", "/elsewhere"].
        display: Shows the progress; the caller enters its context. None shows nothing.

    Returns:
        The content of probe.json. If no weight oscillates, nothing is measured.

    Raises:
        RecipeError: The run did not record average codes; see also `restore`.
        CheckpointError, DataError: See `restore`.
    """
    restored = restore(run, recipe, flags)
    tree = Probe(restored, config, display or Display()).tree()
    if run.is_dir():
        write_json(run / PROBE, tree)
    return tree


def _choices(restored: Restored) -> list[Choice]:
    try:
        bits = restored.recipe.scheme.weight_bits
        return oscillating_choices(restored.tracker, max_bits=bits)
    except TrackingError as error:
        raise RecipeError(
            f"{error}, so the two codes of a weight are unknown; train with "
            "--recording.averages true"
        ) from error


def _spread(values: Sequence[float], best: Callable[[Sequence[float]], float]) -> Spread:
    std = stdev(values) if len(values) > 1 else 0.0
    return Spread(mean=mean(values), std=std, best=best(values))
