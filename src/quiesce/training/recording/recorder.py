"""Records layers, batch norm and single weights while a quantized network trains.

    recorder = Recorder(folder, model, control, RecordingConfig(batchnorm_every=100), total=steps,
                        batches=some_batches)
    for ...:
        ...
        optimizer.step()
        recorder.step()
    recorder.close()

It works without a trainer. Recording never changes a weight, a statistic, a mode or a random
state: a run with a recorder ends with the same bits as one without. docs/run-folder.md describes
the files.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quiesce.cures.control import Control
from quiesce.diagnosis import (
    Trajectory,
    diagnose_batchnorm,
    most_oscillating,
    most_oscillating_layer,
    offset_histogram,
    population_statistics,
)
from quiesce.diagnosis.layers_table import LAYER_COLUMNS, flips_so_far, layer_rows
from quiesce.errors import NothingToDoError, RecipeError, TrackingError
from quiesce.files.atomic import write_beside
from quiesce.recipes.sections import RecordingConfig
from quiesce.run_folder.csv_table import CsvTable
from quiesce.run_folder.folder import BATCHNORM, BATCHNORM_LOSS, LAYERS, TRAJECTORIES
from quiesce.training.scores import Batch, loss_and_top1

NORM_COLUMNS = ("step", "layer", "kind", "kl_mean", "kl_max")
LOSS_COLUMNS = ("step", "loss_running", "loss_reestimated", "top1_running", "top1_reestimated")


class Recorder:
    """Writes layers.csv, batchnorm.csv, batchnorm_loss.csv and trajectories.npz.

    Args:
        folder: An existing folder.
        network: The prepared network.
        control: The `Control` of its optimizer.
        config: The selection and the frequency of the records.
        total: Optimizer steps of the whole training, at least 1.
        batches: Images and labels to measure batch norm on. If empty, batch norm is not measured.
        max_bits: Layers with more bits are not chosen for trajectories.
        prefix: Prefix of the tracker's names before the names of the network's layers.
        board: A TensorBoard SummaryWriter that also gets scalars and histograms, or None.
        writes: Whether this process writes files. In a distributed run only the first process
            does; all of them measure batch norm.

    Raises:
        RecipeError: The layer chosen for trajectories does not exist.
        TrackingError: Weights are split over processes.
    """

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        control: Control,
        config: RecordingConfig,
        *,
        total: int,
        batches: Sequence[Batch] = (),
        max_bits: int = 4,
        prefix: str = "",
        board: Any = None,
        writes: bool = True,
    ) -> None:
        if split := [weight.name for weight in control.weights if weight.shards is not None]:
            raise TrackingError(
                f"{split[0]}: a Recorder reads whole weights, and these are split over processes; "
                "log `tracker.report()`, which all of them call"
            )
        self._network = network
        self._control = control
        self._config = config
        self._total = max(1, total)
        self._batches: Sequence[Batch] = batches if config.batchnorm_every is not None else ()
        self._max_bits = max_bits
        self._prefix = prefix
        self._board = board
        self._writes = writes
        self._seen = control.step  # optimizer steps done
        self._recorded = control.step, [0] * len(control.weights)
        self._layers = CsvTable(folder / LAYERS, LAYER_COLUMNS)
        self._norms = CsvTable(folder / BATCHNORM, NORM_COLUMNS)
        self._losses = CsvTable(folder / BATCHNORM_LOSS, LOSS_COLUMNS)
        self._trajectories = folder / TRAJECTORIES
        self._trajectory: Trajectory | None = None
        names = [weight.name.removeprefix(prefix) for weight in control.tracker.weights]
        check_layer(config, names)

    def step(self) -> None:
        """Write the records that are due; call this at least once per optimizer step."""
        if self._control.step == self._seen:
            return  # gradients are being accumulated, or the step was skipped
        self._seen = step = self._control.step
        if self._writes:
            if self._due(self._config.layers):
                self._record_layers(step)
            if self._board is not None and self._due(self._config.histograms):
                self._record_histograms(step)
            self._follow(step)
        every = self._config.batchnorm_every
        if self._batches and every is not None and step % every == 0:
            self._record_batchnorm(step)

    def close(self) -> None:
        """Write the last state of the layers, and the trajectories."""
        if not self._writes:
            return
        if self._config.layers and self._recorded[0] < self._seen:
            self._record_layers(self._seen)
        if self._trajectory is not None:
            _write_arrays(self._trajectories, self._trajectory, self._prefix)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs to continue recording."""
        trajectory = self._trajectory
        return {
            "version": 1,
            "recorded": self._recorded,
            "trajectory": None if trajectory is None else trajectory.state_dict(),
            "bytes": [table.size() for table in self._tables],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, and drop later rows from the files.

        Raises:
            CheckpointError: A file is shorter than it was then.
        """
        step, flips = state["recorded"]
        self._recorded = step, list(flips)
        if (saved := state["trajectory"]) is not None:
            self._trajectory = Trajectory(self._control.tracker, saved["layer"], saved["index"])
            self._trajectory.load_state_dict(saved)
        if self._writes:
            for table, size in zip(self._tables, state["bytes"], strict=True):
                table.go_on(size)

    @property
    def _tables(self) -> tuple[CsvTable, ...]:
        return self._layers, self._norms, self._losses

    def _due(self, times: int) -> bool:
        """Return whether this is one of `times` evenly spread steps, including the last step."""
        return self._seen * times // self._total > (self._seen - 1) * times // self._total

    def _record_layers(self, step: int) -> None:
        tracker = self._control.tracker
        rows = layer_rows(tracker, step, self._recorded, self._prefix)
        self._recorded = step, flips_so_far(tracker)
        self._layers.add(rows)
        if self._board is not None:
            for _, name, oscillating, *_ in rows:
                self._board.add_scalar(f"oscillating/{name}", oscillating, step)

    def _record_histograms(self, step: int) -> None:
        for weight in self._control.weights:
            histogram = offset_histogram(weight)
            counts = np.array(histogram.counts)
            middles = (np.array(histogram.edges[1:]) + np.array(histogram.edges[:-1])) / 2
            if counts.sum():
                self._board.add_histogram_raw(
                    f"offsets/{weight.name.removeprefix(self._prefix)}",
                    min=-0.5,
                    max=0.5,
                    num=int(counts.sum()),
                    sum=float(counts @ middles),
                    sum_squares=float(counts @ middles**2),
                    bucket_limits=list(histogram.edges[1:]),
                    bucket_counts=counts.tolist(),
                    global_step=step,
                )

    def _follow(self, step: int) -> None:
        first, last = self._config.window(self._total)
        if step == first:
            tracker = self._control.tracker
            layer = self._config.trajectory_layer
            if layer is None:
                layer = most_oscillating_layer(tracker, self._max_bits)
            else:
                layer = self._prefix + layer
            index = most_oscillating(tracker, layer, self._config.trajectory_weights)
            self._trajectory = Trajectory(tracker, layer, index)
        if self._trajectory is not None and step <= last:
            self._trajectory.step()

    def _record_batchnorm(self, step: int) -> None:
        network, device = self._network, self._control.weights[0].latent.device
        images, example = [images for images, _ in self._batches], self._batches[0][0][:1]
        try:
            running = loss_and_top1(network, self._batches)
            there = (each.to(device) for each in images)
            with population_statistics(network, there, len(images)) as kl:
                reestimated = loss_and_top1(network, self._batches)
                norms = diagnose_batchnorm(network, kl, example.to(device))
        except NothingToDoError:  # the network has no batch norm
            self._batches = ()
            return
        if not self._writes:
            return
        self._norms.add([(step, norm.name, norm.kind, norm.kl_mean, norm.kl_max) for norm in norms])
        row = (running.loss, reestimated.loss, running.top1_percent, reestimated.top1_percent)
        self._losses.add([(step, *row)])
        if self._board is not None:
            for norm in norms:
                self._board.add_scalar(f"batchnorm_kl/{norm.name}", norm.kl_mean, step)
            for name, value in zip(LOSS_COLUMNS[1:], row, strict=True):
                self._board.add_scalar(f"batchnorm/{name}", value, step)


def check_layer(config: RecordingConfig, layers: Sequence[str]) -> None:
    """Raise a RecipeError if the layer that the config names is not one of `layers`."""
    if config.trajectory_layer is not None and config.trajectory_layer not in layers:
        near = get_close_matches(config.trajectory_layer, layers, n=1, cutoff=0.0)
        raise RecipeError(
            f"recording.trajectory_layer: no quantized layer is called "
            f"{config.trajectory_layer!r}; the nearest is {near[0]!r}"
        )


def _write_arrays(path: Path, trajectory: Trajectory, prefix: str) -> None:
    arrays: dict[str, Any] = {"layer": np.array(trajectory.layer.removeprefix(prefix))}
    arrays |= {name: tensor.numpy() for name, tensor in trajectory.arrays().items()}

    def write(beside: Path) -> None:
        with beside.open("wb") as file:  # given a name, numpy would append .npz
            np.savez_compressed(file, **arrays)

    write_beside(path, write)
