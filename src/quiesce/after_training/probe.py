"""What oscillation still costs a trained network: what `quiesce probe` does.

Each oscillating weight ended on one of two codes by chance. Other draws, and codes learned by the
loss of the task, show whether the network could have ended better. All else is held: the other
weights, all scales, and the batch-norm statistics, which are re-estimated once, for the network as
it is. Source: table 3 of Nagel et al., ICML 2022, arXiv:2203.11086.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from quiesce.after_training.restored import Restored, restore
from quiesce.diagnosis import (
    Choice,
    draw,
    learn,
    oscillating_choices,
    replaced,
)
from quiesce.errors import RecipeError, TrackingError
from quiesce.run_folder.folder import PROBE, write_json
from quiesce.training.display import Display
from quiesce.training.scores import Batch, Score, loss_and_top1, top1_percent

VERSION = 1
"""Version of the format of probe.json."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How thoroughly to look."""

    samples: int = 20
    """Networks to draw, at least 1."""
    batches: int = 50
    """Training batches that the loss is measured on, and learned from, at least 1."""
    steps: int = 300
    """Optimizer steps in which codes are learned, at least 1."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("samples", "batches", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


class Probe:
    """The measurements on one network.

    Args:
        restored: The network and its tracker.
        config: How thoroughly to look.
        display: Where progress is drawn.
    """

    def __init__(self, restored: Restored, config: ProbeConfig, display: Display) -> None:
        self.restored = restored
        self.config = config
        self.display = display
        self.choices = _choices(restored)

    def tree(self) -> dict[str, Any]:
        """Measure all, and return the content of probe.json."""
        weights = sum(len(choice.index) for choice in self.choices)
        tree: dict[str, Any] = {"version": VERSION, "weights": weights}
        tree |= {"step": self.restored.tracker.steps, "samples": self.config.samples}
        tree |= {"before": None, "sampled": None, "learned": None}
        if weights:
            with self.restored.reestimated(self.display):
                tree |= {
                    "before": self._score("before")._asdict(),
                    "sampled": self._sampled(),
                    "learned": self._learned(),
                }
        return tree

    def _sampled(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.config.seed)
        each = []
        for number in range(1, self.config.samples + 1):
            with replaced(self.choices, draw(self.choices, generator)):
                each.append(self._score(f"sample {number}"))
        losses, top1s = zip(*each, strict=True)
        return {
            "loss": {**_spread(losses), "best": min(losses)},
            "top1_percent": {**_spread(top1s), "best": max(top1s)},
            "each": [list(score) for score in each],
        }

    def _learned(self) -> dict[str, Any]:
        network, steps = self.restored.network, self.config.steps
        batches = self.display.track(self._endless(), "learning", steps)
        codes = learn(network, self.choices, batches, cross_entropy, steps=steps)
        with replaced(self.choices, codes):
            score = self._score("learned")
        changed = sum(
            int((new != choice.now).sum()) for choice, new in zip(self.choices, codes, strict=True)
        )
        return {**score._asdict(), "changed": changed, "steps": steps}

    def _score(self, title: str) -> Score:
        network = self.restored.network
        loss = loss_and_top1(network, self._training(f"loss, {title}")).loss
        test = self.restored.test(self.display, f"top-1, {title}")
        return Score(loss, top1_percent(network, test))

    def _training(self, title: str) -> Iterator[Batch]:
        return self.restored.training(self.config.batches, self.display, title)

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.restored.training(self.config.batches, Display(), "")


def probe(
    run: Path,
    config: ProbeConfig,
    recipe: str | None = None,
    flags: Sequence[str] = (),
    display: Display | None = None,
) -> dict[str, Any]:
    """Draw and learn the codes of the oscillating weights of a run, and measure the networks.

    A run folder gets probe.json, in place of an earlier one; its network stays as it is.

    Args:
        run: A run folder, finished or not, or a checkpoint.
        config: How thoroughly to look.
        recipe: Name or path of the recipe of a checkpoint.
        flags: Override the recipe: ["--data.folder", "/elsewhere"].
        display: Where progress is drawn, entered by the caller; None draws nothing.

    Returns:
        The content of probe.json; without an oscillating weight nothing is measured.

    Raises:
        RecipeError: The run followed no average of codes; and as `restore` raises it.
        CheckpointError, DataError: As `restore` raises them.
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
            f"{error}, so the two codes of a weight are not known; train with "
            "--recording.averages true"
        ) from error


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0}
