"""The content of diagnosis.json, and how it is found in a network with its tracker."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from quiesce.diagnosis import LayerDiagnosis, NormDiagnosis, diagnose_layers
from quiesce.diagnosis.offsets import NEAR
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.training.scores import Batch, loss_and_top1

VERSION = 1
"""Version of the diagnosis' format."""

BATCHES = 50
"""Training batches that the loss is measured on where the recipe re-estimates no statistics."""

RUNNING, REESTIMATED = "running", "reestimated"
"""The two kinds of batch-norm statistics."""


@dataclass(kw_only=True)
class Diagnosis:
    """What there is to see in a network: of its weights, its batch norms and its loss."""

    step: int = 0
    """Optimizer steps that the network has been trained for."""

    finished: bool = True
    """Whether the run went on to its end."""

    momentum: float | None = None
    """Of the tracker's frequencies."""

    layers: list[LayerDiagnosis] = field(default_factory=list)

    norms: list[NormDiagnosis] = field(default_factory=list)

    top1_percent: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys((RUNNING, REESTIMATED))
    )
    """On the test images, with running and with re-estimated statistics."""

    train_loss: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys((RUNNING, REESTIMATED))
    )
    """Cross-entropy on the training batches that statistics are measured on."""

    def tree(self) -> dict[str, Any]:
        """Return the content of diagnosis.json."""
        return {
            "version": VERSION,
            "step": self.step,
            "finished": self.finished,
            "cut": OSCILLATING,
            "near": NEAR,
            "momentum": self.momentum,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "batchnorm": [dataclasses.asdict(norm) for norm in self.norms],
            "accuracy": {"top1_percent": self.top1_percent, "train_loss": self.train_loss},
        }

    def see_layers(self, tracker: OscillationTracker, prefix: str = "") -> None:
        """Diagnose the layers; `prefix` is taken off their names."""
        self.step = tracker.steps
        self.momentum = tracker.momentum
        self.layers = [
            replace(layer, name=layer.name.removeprefix(prefix))
            for layer in diagnose_layers(tracker)
        ]

    def see_score(
        self, kind: str, network: nn.Module, training: Iterable[Batch], top1_percent: float | None
    ) -> None:
        """Measure the training loss with the statistics that `network` has now.

        Args:
            kind: Of the statistics, `RUNNING` or `REESTIMATED`.
            network: Comes back as it was.
            training: Training batches.
            top1_percent: Measured on the test images with the same statistics.
        """
        self.train_loss[kind] = loss_and_top1(network, training).loss
        self.top1_percent[kind] = top1_percent
