"""The content of diagnosis.json."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from quiesce.diagnosis import LayerDiagnosis, NormDiagnosis, diagnose_layers
from quiesce.diagnosis.codes import CodeCounts
from quiesce.diagnosis.layers import QUANTILES
from quiesce.diagnosis.offsets import NEAR, Histogram
from quiesce.files.untrusted.typed_trees import typed
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.run_folder.contents import Accuracy, DiagnosedLayer, DiagnosedNorm, DiagnosisFile
from quiesce.run_folder.reading import read_json, reading

BATCHES = 50
"""Training batches to measure the loss on, if the recipe re-estimates no statistics."""

COMPLETE = ("transition_rate", "near_threshold", "clipped", "offsets", "codes")
"""Fields of a layer that every diagnosis has."""

SHOWN = tuple(f"{each:g}" for each in QUANTILES)

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
        return DiagnosisFile(
            step=self.step,
            finished=self.finished,
            cut=OSCILLATING,
            near=NEAR,
            momentum=self.momentum,
            layers=tuple(typed(asdict(layer), DiagnosedLayer) for layer in self.layers),
            batchnorm=tuple(DiagnosedNorm(**asdict(norm)) for norm in self.norms),
            accuracy=Accuracy(top1_percent=self.top1_percent, train_loss=self.train_loss),
        ).tree()

    def see_layers(self, tracker: OscillationTracker, prefix: str = "") -> None:
        """Diagnose the layers, and remove `prefix` from their names."""
        self.step = tracker.steps
        self.momentum = tracker.momentum
        self.layers = [
            replace(layer, name=layer.name.removeprefix(prefix))
            for layer in diagnose_layers(tracker)
        ]

    def see_score(self, kind: str, train_loss: float, top1_percent: float | None) -> None:
        """Add the scores with one kind of batch-norm statistics, `RUNNING` or `REESTIMATED`."""
        self.train_loss[kind] = train_loss
        self.top1_percent[kind] = top1_percent


def read_diagnosis(path: Path) -> Diagnosis:
    """Read the diagnosis.json of `quiesce.record`, which has no batch norms.

    Raises:
        RecipeError: The file is damaged, or of a newer version.
    """
    found = read_json(path, DiagnosisFile)
    with reading(path):
        return Diagnosis(
            step=found.step,
            finished=found.finished,
            momentum=found.momentum,
            layers=[_layer(layer) for layer in found.layers],
            top1_percent=_both(found.accuracy.top1_percent),
            train_loss=_both(found.accuracy.train_loss),
        )


def _layer(layer: DiagnosedLayer) -> LayerDiagnosis:
    tree = msgspec.to_builtins(layer)
    if missing := [name for name in COMPLETE if tree[name] is None]:
        raise ValueError(f"{layer.name} has no {missing[0]}")
    tree["frequency_quantiles"] = {name: tree["frequency_quantiles"][name] for name in SHOWN}
    tree["offsets"], tree["codes"] = Histogram(**tree["offsets"]), CodeCounts(**tree["codes"])
    return LayerDiagnosis(**tree)


def _both(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {kind: scores.get(kind) for kind in (RUNNING, REESTIMATED)}
