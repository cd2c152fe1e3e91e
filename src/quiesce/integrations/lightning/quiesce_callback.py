"""Callback that runs quiesce in a Lightning Trainer, without changes to the LightningModule.

    Trainer(callbacks=[QuiesceCallback([Freezing(0.02)])])

When training starts, the callback creates a `Control` on the optimizers. It adds the penalty to the
loss that `training_step` returns, and saves its state in Lightning's checkpoints. It is also a
`WatchCallback`. Prepare the model before the optimizers are created.

A module with `automatic_optimization = False` calls backward itself and must add the penalty:

    self.manual_backward(loss + quiesce.lightning.penalty(self))
"""

from collections.abc import Callable, Sequence
from functools import wraps
from math import isfinite
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from quiesce.cures.control import Control
from quiesce.cures.cure import Cure
from quiesce.cures.step_hooks import refuse_engine
from quiesce.cures.verify_ranks import verify_ranks
from quiesce.errors import MissingExtraError, TrackingError
from quiesce.integrations.lightning.watch_callback import WatchCallback as WatchCallback
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.parallel.split_weights import whole
from quiesce.stacks.attach import attach

try:
    from lightning.pytorch import LightningModule, Trainer
except ImportError as error:
    raise MissingExtraError("quiesce.lightning", "train") from error


class QuiesceCallback(WatchCallback):
    """Tracks and cures oscillation in any LightningModule that contains a prepared model.

    It may be prepared by another toolkit, see `quiesce.attach`.

    Args:
        cures: The cures; without any, oscillation is only tracked.
        momentum: Momentum of the tracker, in (0, 1). None: 0.01, or what a cure with a target
            derives from the number of steps.
        average_up_to: The tracker follows the average code of all weights with at most this many
            bits, which `quiesce.diagnosis.oscillating_choices` reads. None: only if a cure needs
            it.
        verify_every: Number of optimizer steps between comparisons of the weights and records of
            all processes, counted from the start of this process. All processes stop if they
            differ; see `quiesce.verify_ranks`. None: never.
        prefix: Prefix of names in the module that messages of the watch omit.

    Attributes:
        control: The `Control`; None before training starts.
        watch: The `Watch`; None before training starts.

    Raises:
        ValueError: `verify_every` is below 1.
    """

    def __init__(
        self,
        cures: Sequence[Cure] = (),
        momentum: float | None = None,
        *,
        average_up_to: int | None = None,
        verify_every: int | None = None,
        prefix: str = "",
    ) -> None:
        if verify_every is not None and verify_every < 1:
            raise ValueError(f"verify_every must be at least 1 step, got {verify_every}")
        super().__init__(prefix)
        self.cures = list(cures)
        self.momentum = momentum
        self.average_up_to = average_up_to
        self.verify_every = verify_every
        self._ended = 0  # batches that ended an accumulation; the same in all processes
        self.control: Control | None = None
        self._saved_control: dict[str, Any] | None = None
        self._restore: Callable[[], None] | None = None

    @property
    def tracker(self) -> OscillationTracker:
        """The tracker.

        Raises:
            TrackingError: Training has not started.
        """
        if self.control is None:
            raise TrackingError("there is no tracker before training starts")
        return self.control.tracker

    def report(self) -> list[dict[str, Any]]:
        """Return what each cure has done, see `Control.report`; empty before training starts."""
        return [] if self.control is None else self.control.report()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the `Control` on the raw optimizers, whose hooks run once per real step.

        Raises:
            TrackingError: The strategy is DeepSpeed or FSDP 1.
        """
        refuse_engine(trainer.strategy)
        weights = attach(pl_module)
        tracker = OscillationTracker(weights, self.momentum)
        if self.average_up_to is not None:
            tracker.follow_average(w for w in weights if w.grid.bits <= self.average_up_to)
        steps = trainer.estimated_stepping_batches
        total = int(steps) if isfinite(steps) else None
        self.control = Control(trainer.optimizers, weights, tracker, self.cures, total=total)
        if self._saved_control is not None:
            self.control.load_state_dict(self._saved_control)
            self._saved_control = None
        self._ended = 0
        if pl_module.automatic_optimization:
            self._restore = _add_penalty(pl_module, self.control)
        super().on_train_start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the step as in `WatchCallback`, and that a manual step includes the penalty.

        Raises:
            TrackingError: A cure has a penalty, and `training_step` did not compute it.
            DivergedError: As in `WatchCallback`.
        """
        if not pl_module.automatic_optimization:
            self._check_penalty(optimizer)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the processes if a comparison is due after this optimizer step."""
        if self.control is None or self.verify_every is None:
            return
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self._ended += 1
            if self._ended % self.verify_every == 0:
                verify_ranks(self.control)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the cures finish, and release optimizers and module; the reports stay available."""
        if self.control is not None:
            self.control.finish()
        self._release()
        super().on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release optimizers and module."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of control and watch; one process writes them for all."""
        if self.control is not None:
            state = whole(self.control.state_dict())
            return {**state, "did": self.report(), "watch": super().state_dict()}
        return self._saved_control or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states from Lightning's checkpoint until training starts."""
        self._saved_control = state_dict or None
        super().load_state_dict(state_dict.get("watch", {}))

    def _check_penalty(self, optimizer: Optimizer) -> None:
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        control = self.control
        if control is None or all(id(weight.latent) not in moved for weight in control.weights):
            return
        if control.penalty_missing:
            raise TrackingError(
                "with automatic_optimization = False the training_step has to add the penalty of "
                "the cures to its loss: "
                "self.manual_backward(loss + quiesce.lightning.penalty(self))"
            )

    def _release(self) -> None:
        if self.control is not None:
            self.control.close()
        if self._restore is not None:
            self._restore()
            self._restore = None


def penalty(module: LightningModule) -> Tensor:
    """Return the penalty of the cures for the next optimizer step: a scalar.

    A module with `automatic_optimization = False` adds it in its `training_step`, once per
    optimizer step, or in parts to each of several accumulated losses. With automatic optimization
    the callback adds it.

    Args:
        module: A module in training by a Trainer with a `QuiesceCallback`.

    Raises:
        TrackingError: The Trainer has no `QuiesceCallback`, or is not training.
    """
    for callback in module.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, QuiesceCallback) and callback.control is not None:
            return callback.control.penalty()
    raise TrackingError(
        "there is no penalty: the Trainer of this module is not training with a QuiesceCallback"
    )


def _add_penalty(module: LightningModule, control: Control) -> Callable[[], None]:
    """Make `training_step` add the penalty to its loss; return a function that undoes this.

    `training_step` can return a tensor, a dict with "loss", or None (a skipped batch).
    """
    training_step, own = module.training_step, "training_step" in vars(module)

    @wraps(training_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        output = training_step(*args, **kwargs)
        if isinstance(output, Tensor):
            return output + control.penalty()
        if isinstance(output, dict) and "loss" in output:
            return {**output, "loss": output["loss"] + control.penalty()}
        return output

    def restore() -> None:
        if own:
            module.training_step = training_step
        else:
            del module.training_step

    module.training_step = step
    return restore
