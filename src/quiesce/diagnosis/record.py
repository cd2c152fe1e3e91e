"""Records your own training loop in a run folder, for `quiesce diagnose` and `quiesce report`.

    with quiesce.record(control, "runs/mine") as recording:
        for images, labels in batches:
            ...
            optimizer.step()
            recording.log(loss=loss)

It writes metrics.csv, layers.csv and diagnosis.json; see docs/run-folder.md. It needs only torch,
and changes no weight.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mode
from types import TracebackType
from typing import Any

from torch import Tensor

from quiesce.cures.control import Control
from quiesce.cures.cure import Cure
from quiesce.diagnosis.layers import diagnose_layers
from quiesce.diagnosis.layers_table import LAYER_COLUMNS, flips_so_far, layer_rows
from quiesce.diagnosis.offsets import NEAR
from quiesce.errors import RecipeError, TrackingError
from quiesce.files.atomic import in_home, write_beside
from quiesce.oscillation.layer_report import overall
from quiesce.oscillation.tracker import OSCILLATING, OscillationTracker
from quiesce.parallel.processes import rank
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.run_folder.csv_table import CsvTable
from quiesce.run_folder.folder import DIAGNOSIS, LAYERS, METRICS

FILES = {METRICS, LAYERS, DIAGNOSIS}
METRIC_COLUMNS = ("step", "loss", "top1_percent", "oscillating", "frozen", "flips_per_step")


def record(
    control: Control,
    folder: str | Path,
    *,
    every: int = 50,
    network: str | None = None,
    float_top1_percent: float | None = None,
) -> "Recording":
    """Record your training loop in a folder.

    The tables grow every `every` steps, and diagnosis.json is written when the recording is closed.
    If the state of `control` was loaded, an earlier recording in the folder is continued: its rows
    up to this step stay, and later ones are removed.

    Args:
        control: The `Control` of the loop, after its state was loaded.
        folder: The folder to create, with missing parents, or the folder to continue.
        every: Optimizer steps between two rows of the tables, at least 1.
        network: Name of the network, for the report.
        float_top1_percent: Accuracy of the float network, in percent, for the report.

    Returns:
        The recording. Use it as a context manager, or call its `close` after the last step. In a
        distributed run, call this in every process; only the first one writes.

    Raises:
        RecipeError: `folder` exists and `control` is at step 0, or it contains other files than a
            recording, or it cannot be created.
        CheckpointError: Its tables have other columns.
        TrackingError: Weights are split over processes.
        ValueError: `every` is below 1.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker)
        >>> with qs.record(control, "runs/mine", network="one layer") as recording:
        ...     optimizer.step()
        ...     recording.log(loss=0.5)
        >>> from pathlib import Path
        >>> sorted(path.name for path in Path("runs/mine").iterdir())
        ['diagnosis.json', 'layers.csv', 'metrics.csv']
    """
    told = {"network": network, "float_top1_percent": float_top1_percent}
    return Recording(control, in_home(folder), every, told)


class Recording(Cure):
    """The recording that `record` returns; its `Control` calls it after each step, like a cure."""

    def __init__(
        self, control: Control, folder: Path, every: int, told: dict[str, Any] | None = None
    ) -> None:
        if every < 1:
            raise ValueError(f"`every` must be at least 1 step, got {every}")
        if split := [weight.name for weight in control.weights if weight.shards is not None]:
            raise TrackingError(
                f"{split[0]}: a recording reads whole weights, and these are split over processes; "
                "log `tracker.report()`, which all of them call"
            )
        self.folder = folder
        self._control = control
        self._every = every
        self._told = told or {}
        self._writes = rank() == 0
        bits = [weight.grid.bits for weight in control.weights]
        # first and last layers often have more bits than the others
        self._low_bits = mode([each for each in bits if each < max(bits)] or bits)
        self._logged: dict[str, float | Tensor] = {}
        self._last: dict[str, float] = {}
        self._recorded = control.step, flips_so_far(control.tracker)
        self._layers = CsvTable(folder / LAYERS, LAYER_COLUMNS)
        self._metrics = CsvTable(folder / METRICS, METRIC_COLUMNS)
        if self._writes:
            _open(folder, control.step)
            self._layers.go_on_before(control.step + 1)
            self._metrics.go_on_before(control.step)  # a row is about the step with its number
        control.cures.append(self)

    def log(self, *, loss: float | Tensor | None = None, top1_percent: float | None = None) -> None:
        """Log numbers of the loop; the next row of metrics.csv holds the last value of each.

        Args:
            loss: Loss of a batch. A tensor is read when the row is written.
            top1_percent: Accuracy on the test images, in percent.
        """
        given = {"loss": loss, "top1_percent": top1_percent}
        for name, value in given.items():
            if value is not None:
                self._logged[name] = value.detach() if isinstance(value, Tensor) else value

    def close(self, *, finished: bool = True) -> None:
        """Write the last rows, and detach from the control. A second call does nothing.

        Args:
            finished: Whether the training is complete; the report says so if it is not.
        """
        if self not in self._control.cures:
            return
        self._control.cures.remove(self)
        if self._logged or self._recorded[0] < self._control.step:
            self._write_rows(self._control.step)
        self._write_diagnosis(finished=finished)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(finished=error is None)

    def attach(self, weights: Sequence[QuantizedWeight], tracker: OscillationTracker) -> None:
        """Do nothing, because the control is already known."""

    def after_step(self, step: int) -> None:
        """Write the rows of the completed step, if they are due."""
        if (step + 1) % self._every == 0:
            self._write_rows(step + 1)

    def _write_rows(self, step: int) -> None:
        if not self._writes:
            return
        tracker = self._control.tracker
        self._layers.add(layer_rows(tracker, step, self._recorded))
        self._recorded = step, flips_so_far(tracker)
        report = tracker.report()
        low = overall([seen for seen in report if (seen.bits or 0) <= self._low_bits], None, step)
        numbers = {name: float(value) for name, value in self._logged.items()}
        self._logged, self._last = {}, self._last | numbers
        row = (step - 1, numbers.get("loss"), numbers.get("top1_percent"))
        self._metrics.add([(*row, low.oscillating, low.frozen, low.flips_per_step)])

    def _write_diagnosis(self, *, finished: bool) -> None:
        if not self._writes:
            return
        tracker = self._control.tracker
        scores = {name: self._last.get(name) for name in ("top1_percent", "loss")}
        tree: dict[str, Any] = {
            "version": 1,
            "step": self._control.step,
            "finished": finished,
            "cut": OSCILLATING,
            "near": NEAR,
            "momentum": tracker.momentum,
            "low_bits": self._low_bits,
            **self._told,
            "layers": [dataclasses.asdict(layer) for layer in diagnose_layers(tracker)],
            "batchnorm": [],
            "accuracy": {
                name: {"running": value, "reestimated": None}
                for name, value in zip(("top1_percent", "train_loss"), scores.values(), strict=True)
            },
        }
        data = (json.dumps(tree, indent=2) + "\n").encode()
        write_beside(self.folder / DIAGNOSIS, lambda beside: beside.write_bytes(data), len(data))


def _open(folder: Path, step: int) -> None:
    """Create the folder, or check that it is a recording that a loop at `step` can continue."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        if not folder.is_dir() or {each.name for each in folder.iterdir()} - FILES:
            raise RecipeError(
                f"{folder} exists already, and is no recording; give another folder"
            ) from error
        if not step:
            raise RecipeError(
                f"{folder} exists already; give another folder, or remove it. To continue its "
                "recording, call control.load_state_dict before quiesce.record"
            ) from error
    except OSError as error:
        raise RecipeError(f"{folder} cannot be created: {error.strerror or error}") from error
