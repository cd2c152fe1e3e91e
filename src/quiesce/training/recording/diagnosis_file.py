"""The content of diagnosis.json."""

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from quiesce.diagnosis import LayerDiagnosis, NormDiagnosis, diagnose_layers
from quiesce.diagnosis.codes import CodeCounts
from quiesce.diagnosis.kinds import Kind
from quiesce.diagnosis.offsets import NEAR, Histogram
from quiesce.errors import RecipeError
from quiesce.files.untrusted.typed_values import count, mapping, maybe, number, text
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.run_folder.folder import read_json

VERSION = 1
"""Version of the format of diagnosis.json."""

BATCHES = 50
"""Training batches to measure the loss on, if the recipe re-estimates no statistics."""

KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}

RUNNING, REESTIMATED = "running", "reestimated"
"""The two kinds of batch-norm statistics."""


@dataclass(kw_only=True)
class Diagnosis:
    """The state of a network: its weights, its batch norms and its loss."""

    step: int = 0
    """Optimizer steps of the training so far."""
    finished: bool = True
    """Whether the run is finished."""
    momentum: float | None = None
    """Momentum of the tracker's frequencies."""
    layers: list[LayerDiagnosis] = field(default_factory=list)
    norms: list[NormDiagnosis] = field(default_factory=list)
    top1_percent: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys((RUNNING, REESTIMATED))
    )
    """Accuracy on the test images, with running and with re-estimated statistics."""
    train_loss: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys((RUNNING, REESTIMATED))
    )
    """Cross-entropy on the training batches that the statistics are estimated from."""

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
        """Diagnose the layers; `prefix` is removed from their names."""
        self.step = tracker.steps
        self.momentum = tracker.momentum
        self.layers = [
            replace(layer, name=layer.name.removeprefix(prefix))
            for layer in diagnose_layers(tracker)
        ]

    def see_score(self, kind: str, train_loss: float, top1_percent: float | None) -> None:
        """Add what was measured with one kind of batch-norm statistics, `RUNNING` or `REESTIMATED`.

        Args:
            kind: The kind of the statistics.
            train_loss: Cross-entropy on training batches.
            top1_percent: Accuracy on the test images.
        """
        self.train_loss[kind] = train_loss
        self.top1_percent[kind] = top1_percent


def read_diagnosis(path: Path) -> Diagnosis:
    """Read the diagnosis.json of `quiesce.record`, which has no batch norms.

    Raises:
        RecipeError: The file is damaged, or of a newer version.
    """
    tree = read_json(path, VERSION)
    try:
        scores = mapping(tree["accuracy"])
        top1_percent, train_loss = (
            {kind: maybe(number, scores[name].get(kind)) for kind in (RUNNING, REESTIMATED)}
            for name in ("top1_percent", "train_loss")
        )
        return Diagnosis(
            step=count(tree["step"]),
            finished=bool(tree["finished"]),
            momentum=number(tree["momentum"]),
            layers=[_layer(mapping(each)) for each in tree["layers"]],
            top1_percent=top1_percent,
            train_loss=train_loss,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{path} is damaged: {error}; record the run again") from error


def _layer(tree: dict[str, Any]) -> LayerDiagnosis:
    offsets, codes = mapping(tree["offsets"]), mapping(tree["codes"])
    return LayerDiagnosis(
        name=text(tree["name"]),
        kind=KINDS[text(tree["kind"])],
        weights=count(tree["weights"]),
        bits=maybe(count, tree["bits"]),
        total_oscillations=count(tree["total_oscillations"]),
        oscillating=number(tree["oscillating"]),
        frozen=number(tree["frozen"]),
        flips_per_step=number(tree["flips_per_step"]),
        transition_rate=number(tree["transition_rate"]),
        near_threshold=number(tree["near_threshold"]),
        clipped=number(tree["clipped"]),
        distance_ratio=maybe(number, tree["distance_ratio"]),
        frequency_quantiles={k: number(v) for k, v in mapping(tree["frequency_quantiles"]).items()},
        offsets=Histogram(
            edges=tuple(map(number, offsets["edges"])), counts=tuple(map(count, offsets["counts"]))
        ),
        codes=CodeCounts(
            code=tuple(map(count, codes["code"])), counts=tuple(map(count, codes["counts"]))
        ),
    )
