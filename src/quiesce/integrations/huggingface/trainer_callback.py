"""Callback that runs quiesce in the Trainer of Transformers, without changes to Trainer or model.

    Trainer(model, args, callbacks=[QuiesceTrainerCallback([Freezing(0.02)])], ...)

When training starts, the callback creates a `Control` on the optimizer of the Trainer. It watches
for invalid numbers (`quiesce.health.watching`), logs, and saves its state in the checkpoints of the
Trainer. The model must be prepared before the Trainer is created.

A callback has no access to the loss, so the penalty is not added to it. Instead, the gradient of
the penalty is computed separately, once per optimizer step, before the first batch of the step adds
its gradient. It is therefore independent of how the loss is computed, scaled and accumulated (label
smoothing, `compute_loss_func`, subclasses that override `compute_loss`). It is clipped with the
other gradients, and the Trainer logs the loss of the task only.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quiesce.cures.control import Control
from quiesce.cures.cure import Cure
from quiesce.cures.step_hooks import refuse_engine
from quiesce.cures.verify_ranks import verify_ranks
from quiesce.errors import MissingExtraError, TrackingError
from quiesce.health.watching import Watch
from quiesce.integrations.huggingface import checkpoint
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.stacks.attach import attach

try:
    from transformers import (
        DefaultFlowCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:
    raise MissingExtraError("quiesce.integrations.huggingface", "hf") from error


class QuiesceTrainerCallback(TrainerCallback):
    """Tracks and cures oscillation in any Trainer with a prepared model.

    It may be prepared by another toolkit, see `quiesce.attach`.

    Every `logging_steps`, the callback logs the fractions of oscillating and frozen weights
    ("quiesce/oscillating", "quiesce/frozen"), the number of codes that change per step
    ("quiesce/flips_per_step"), and the penalty ("quiesce/penalty").

    The state is saved as `quiesce.pt` in each checkpoint. Resumed training is bit-identical to
    uninterrupted training.

    Args:
        cures: The cures; without any, oscillation is only tracked.
        momentum: Momentum of the tracker, in (0, 1). None: 0.01, or what a cure with a target
            derives from the number of steps.
        verify_every: Number of optimizer steps between comparisons of all processes. All processes
            stop if they differ; see `quiesce.verify_ranks`. None: never.
        resume_from: Folder of the checkpoint to resume from. Required if it is not the checkpoint
            of this step in the output folder of the Trainer.

    Attributes:
        control: The `Control`, available once training starts.
        watch: The `Watch`, available once training starts.

    Raises:
        ValueError: `verify_every` is below 1.
    """

    def __init__(
        self,
        cures: Sequence[Cure] = (),
        momentum: float | None = None,
        *,
        verify_every: int | None = None,
        resume_from: str | Path | None = None,
    ) -> None:
        if verify_every is not None and verify_every < 1:
            raise ValueError(f"verify_every must be at least 1 step, got {verify_every}")
        self.cures = list(cures)
        self.momentum = momentum
        self.verify_every = verify_every
        self.resume_from = resume_from
        self.control: Control | None = None
        self.watch: Watch | None = None
        self._scaler: torch.amp.GradScaler | None = None
        self._penalty = torch.zeros(())
        self._forward: Callable[[], Any] | None = None
        self._hooks: list[Any] = []

    def attach(self, trainer: Trainer) -> None:
        """Add the callback to a Trainer before the callbacks of `report_to`.

        `Trainer(callbacks=[...])` adds it after them. The values then appear in the log of the
        Trainer, its progress bar and `trainer.state.log_history`, but not in TensorBoard etc.
        """
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        flow = [i for i, each in enumerate(callbacks) if isinstance(each, DefaultFlowCallback)]
        callbacks.insert(flow[0] + 1 if flow else 0, self)

    @property
    def tracker(self) -> OscillationTracker:
        """The tracker.

        Raises:
            TrackingError: Training has not started.
        """
        return self._running().tracker

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Create `Control` and `Watch`, and load their state if training is resumed.

        Raises:
            TrackingError: The Trainer uses DeepSpeed or FSDP, or the state in the checkpoint does
                not belong to these weights.
        """
        if model is None:
            raise TrackingError("the Trainer has no model")
        refuse_engine(optimizer)
        self._release()  # left from a training that ended with an exception
        weights = attach(model)
        tracker = OscillationTracker(weights, self.momentum)
        total = state.max_steps if state.max_steps > 0 else None
        self.control = Control(optimizer, weights, tracker, self.cures, total=total)
        self._scaler = getattr(optimizer, "scaler", None)
        self.watch = Watch(model, scaled=self._scaler is not None)
        if state.global_step:
            folder = self.resume_from or _folder(args, state)
            checkpoint.load(Path(folder), self.control, self.watch)
        self._hooks = [model.register_forward_pre_hook(self._remember, with_kwargs=True)]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Initialise the gradients of an optimizer step with the gradient of the penalty."""
        penalty = self._running().penalty()
        self._penalty = penalty.detach()
        if penalty.requires_grad:
            (penalty * self._loss_scale()).backward()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check the step, after clipping.

        Raises:
            DivergedError: See `Watch.check`.
        """
        if self.watch is not None:
            self.watch.step = state.global_step
            self.watch.check(forward=self._forward)
        self._forward = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Compare the processes if this is due, and check all numbers before a checkpoint."""
        if self.verify_every is not None and state.global_step % self.verify_every == 0:
            verify_ranks(self._running())
        self._settle(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Do the same as `on_step_end`, for checkpoints at the end of an epoch."""
        self._settle(state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add the statistics of the tracker to the log of a training step."""
        if self.control is None or not self.control.step or logs is None or "loss" not in logs:
            return
        seen = self.tracker.summary()
        values = {
            "quiesce/oscillating": seen.oscillating,
            "quiesce/frozen": seen.frozen,
            "quiesce/flips_per_step": seen.flips_per_step,
            "quiesce/penalty": self._penalty.item(),
        }
        logs.update(values)
        state.log_history[-1].update(values)  # the Trainer has already copied `logs` to it

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save the state of `Control` and `Watch` in the checkpoint.

        Nothing is saved in model-only checkpoints and those of a hyperparameter search, because
        they are not resumed.
        """
        if self.control is None or self.watch is None:
            return
        if args.save_only_model or state.is_hyper_param_search:
            return
        content = checkpoint.content(self.control, self.watch)  # all processes take part
        if args.should_save:
            checkpoint.write(content, _folder(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let the cures finish, and release optimizer and model; the reports stay available."""
        if self.control is not None:
            self.control.finish()
        self._release()
        if self.watch is not None:
            self.watch.step = state.global_step
            self.watch.settle()

    def _running(self) -> Control:
        if self.control is None:
            raise TrackingError("there is no tracker before training starts")
        return self.control

    def _loss_scale(self) -> float:
        """Return the factor by which Accelerate multiplies the loss before backward."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def _remember(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Store the last batch, so that its forward pass can be repeated to find a faulty layer."""
        if model.training and torch.is_grad_enabled():
            self._forward = partial(model, *args, **kwargs)

    def _settle(self, state: TrainerState, control: TrainerControl) -> None:
        if self.watch is not None and control.should_save:
            self.watch.step = state.global_step
            self.watch.settle()

    def _release(self) -> None:
        if self.control is not None:
            self.control.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._forward = [], None


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the checkpoint of this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
