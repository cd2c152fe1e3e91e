"""The content of diagnosis.json."""

from dataclasses import asdict, dataclass, field, replace

from quiesce.diagnosis import LayerDiagnosis, NormDiagnosis, diagnose_layers
from quiesce.diagnosis.offsets import NEAR
from quiesce.files.untrusted.typed_trees import typed
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.run_folder.contents import Accuracy, DiagnosedLayer, DiagnosedNorm, DiagnosisFile

BATCHES = 50
"""Training batches to measure the loss on, if the recipe re-estimates no statistics."""

RUNNING, REESTIMATED = "running", "reestimated"
"""The two kinds of batch-norm statistics."""


@dataclass(kw_only=True)
class Diagnosis:
    """The state of a network: its weights, its batch norms and its loss."""

    step: int = 0
    finished: bool = True
    momentum: float | None = None
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

    def file(self) -> DiagnosisFile:
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
        )

    def see_layers(self, tracker: OscillationTracker, prefix: str = "") -> None:
        """Diagnose the layers, and remove `prefix` from their names."""
        self.step = tracker.steps
        self.momentum = tracker.momentum
        self.layers = [
            replace(layer, name=layer.name.removeprefix(prefix))
            for layer in diagnose_layers(tracker)
        ]
