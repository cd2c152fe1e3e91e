"""quiesce in the Trainer of Transformers: one callback, and no change to Trainer or model.

    Trainer(model, args, callbacks=[QuiesceTrainerCallback([Freezing(0.02)])], ...)

The callback makes a `Control` on the Trainer's optimizer once training starts, watches for numbers
that go wrong (`quiesce.health.watching`), logs, and keeps its state in the Trainer's checkpoints.
The model must be prepared before the Trainer is made.

The gradient of a sum is the sum of gradients. So the penalty is not added to the loss, which a
callback does not see: its gradient is computed by itself, once per optimizer step, before the first
batch of the step adds its own. How the loss is computed, scaled and accumulated is then without
effect on it (label smoothing, `compute_loss_func`, subclasses that override `compute_loss`), it is
clipped with the rest, and the loss that the Trainer logs stays that of the task.
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
from quiesce.quantization.prepare import quantized_weights

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
    """Tracks oscillation, and cures it, in any Trainer whose model is prepared.

    Every `logging_steps` the Trainer's log gets the shares of oscillating and of frozen weights
    ("quiesce/oscillating", "quiesce/frozen"), the codes that change in a step
    ("quiesce/flips_per_step"), and the penalty ("quiesce/penalty").

    Each checkpoint gets a file `quiesce.pt`. Training that is resumed from the checkpoint goes on
    to the same bits.

    Args:
        cures: What to do about oscillation; none only tracks.
        momentum: The tracker's, in (0, 1).
        verify_every: Compare what the processes hold every so many optimizer steps, and stop all of
            them where they part; see `quiesce.verify_ranks`. None: never.
        resume_from: Folder of the checkpoint that training is resumed from. It is needed where that
            is not the one of this step in the Trainer's output folder.

    Attributes:
        control: The `Control`, from the start of training on.
        watch: The `Watch`, from the start of training on.

    Raises:
        ValueError: `verify_every` is below 1.
    """

    def __init__(
        self,
        cures: Sequence[Cure] = (),
        momentum: float = 0.01,
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
        """Add the callback to a Trainer, before those of `report_to`, so that they log it too.

        `Trainer(callbacks=[...])` adds it after them: then the Trainer's own log, its progress bar
        and `trainer.state.log_history` have the values, but TensorBoard and the like do not.
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
        """Make `Control` and `Watch`; where training is resumed, load their state.

        Raises:
            TrackingError: The Trainer uses DeepSpeed or FSDP, or the state in the checkpoint does
                not belong to these weights.
        """
        if model is None:
            raise TrackingError("the Trainer has no model")
        refuse_engine(optimizer)
        self._release()  # of a training that an exception has ended
        weights = quantized_weights(model)
        tracker = OscillationTracker(weights, self.momentum)
        self.control = Control(optimizer, weights, tracker, self.cures)
        self._scaler = getattr(optimizer, "scaler", None)
        self.watch = Watch(model, scaled=self._scaler is not None)
        if state.global_step:
            folder = self.resume_from or _folder(args, state)
            checkpoint.load(Path(folder), self.control, self.watch)
        self._hooks = [model.register_forward_pre_hook(self._remember, with_kwargs=True)]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the gradients of an optimizer step with that of the penalty."""
        penalty = self._running().penalty()
        self._penalty = penalty.detach()
        if penalty.requires_grad:
            (penalty * self._loss_scale()).backward()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check the step, after clipping.

        Raises:
            DivergedError: As `Watch.check` does.
        """
        if self.watch is not None:
            self.watch.step = state.global_step
            self.watch.check(forward=self._forward)
        self._forward = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Compare the processes where that is due; before a checkpoint look at every number."""
        if self.verify_every is not None and state.global_step % self.verify_every == 0:
            verify_ranks(self._running())
        self._settle(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """As `on_step_end`, for checkpoints at the end of an epoch."""
        self._settle(state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add what the tracker sees to the log of a training step."""
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
        state.log_history[-1].update(values)  # the Trainer has copied `logs` to it before

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put the state of `Control` and `Watch` into the checkpoint.

        Checkpoints of the model alone, and those of a hyperparameter search, are not resumed.
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
        """Let go of optimizer and model; the tracker and its reports stay."""
        self._release()
        if self.watch is not None:
            self.watch.step = state.global_step
            self.watch.settle()

    def _running(self) -> Control:
        if self.control is None:
            raise TrackingError("there is no tracker before training starts")
        return self.control

    def _loss_scale(self) -> float:
        """By what Accelerate multiplies the loss before the backward."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def _remember(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep how the last batch is run, should a layer have to be named."""
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
    """Where the Trainer keeps the checkpoint of this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
