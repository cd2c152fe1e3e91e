"""Runs a `Recorder` in a Lightning Trainer."""

from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from quiesce.parallel.processes import raised_together
from quiesce.recipes.recipe import Recipe
from quiesce.training.classifier import NETWORK_PREFIX
from quiesce.training.recording.recorder import Recorder
from quiesce.training.scores import Batch


class RecordingCallback(Callback):
    """Records the data of the section `recording` of a recipe.

    Args:
        tracking: The callback that tracks oscillation. It must precede this one in the Trainer.

    Attributes:
        batches: Images and labels to measure batch norm on. Set them before training, if the recipe
            requires it.
    """

    def __init__(self, recipe: Recipe, tracking: QuiesceCallback) -> None:
        self._recipe = recipe
        self._tracking = tracking
        self._recorder: Recorder | None = None
        self._saved: dict[str, Any] | None = None
        self.batches: Sequence[Batch] = ()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the recorder: the tracker and the number of steps are known now."""
        if self._tracking.control is None:
            return
        boards = [each for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
        self._recorder = Recorder(
            self._recipe.folder,
            pl_module.network,  # pyright: ignore[reportArgumentType]
            self._tracking.control,
            self._recipe.recording,
            total=int(trainer.estimated_stepping_batches),
            batches=self.batches,
            max_bits=self._recipe.scheme.weight_bits,
            prefix=NETWORK_PREFIX,
            board=boards[0].experiment if boards else None,
            writes=trainer.is_global_zero,
        )
        if self._saved is not None:
            self._recorder.load_state_dict(self._saved)
            self._saved = None

    def state_dict(self) -> dict[str, Any]:
        """Return the recorder's state, for Lightning's checkpoint."""
        return {} if self._recorder is None else self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state from Lightning's checkpoint until training starts."""
        self._saved = state_dict or None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the records due after the previous batch; the time does not count as training."""
        if self._recorder is not None:
            self._recorder.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the records due after the last batch, and close the files."""
        if self._recorder is not None:
            self._recorder.step()
        with raised_together():
            self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the recorded data, so that an interrupted run can be inspected."""
        self._close()

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
