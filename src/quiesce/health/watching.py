"""Watches training for numbers that are not finite, and names the layer.

    watch = Watch(model)
    for images, labels in batches:
        loss = cross_entropy(model(images), labels)
        loss.backward()
        watch.check(loss, lambda: model(images))
        optimizer.step()

A check reads the norm of all gradients, the loss, and the scales. It inspects single layers only if
one of them is wrong. In a distributed training all processes call it and get the same result. On an
accelerator a step is judged at the next check, or before a checkpoint, so that nothing waits.

Problems and reactions (docs/reliability.md):

    loss or gradient is NaN or inf     DivergedError, before the optimizer step
    the same with a GradScaler         it skips the step; an error after MOST_SKIPPED in a row;
                                       running statistics that are not finite are reset
    scale below SMALL of its first     a warning; max(|scale|, 2^-40) is used
    scale below 0                      a warning; its magnitude is used
    input that is zero everywhere      a warning; its scale does not change
"""

import logging
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quiesce.errors import DivergedError
from quiesce.health import faults
from quiesce.health.deferred import Deferred
from quiesce.health.explanations import Finding, describe_parameter, explain
from quiesce.health.faults import layer_of
from quiesce.parallel import processes
from quiesce.parallel.split_weights import local
from quiesce.parallel.wrappers import named_modules, unwrapped
from quiesce.quantization.quantizer import FakeQuantizer

MOST_SKIPPED = 50
"""Steps in a row that a GradScaler may skip; each halves its scale."""
SMALL = 2.0**-10
"""A scale that falls below this share of its first value causes a warning."""
LOOK_EVERY = 100
"""Steps between two searches for inputs of zeros; gradients can be 0 for other reasons."""

log = logging.getLogger("quiesce.watching")


class _Reading(NamedTuple):
    """Values that a check has read at a step."""

    step: int
    flags: Deferred
    """For all processes: whether gradients or loss are wrong, and which warnings are new."""
    fresh: list[Tensor]
    """Masks of the scales that are newly small, negative, and without gradient."""
    loss: Tensor | None
    forward: Callable[[], Any] | None


class _Scales:
    """The scales of some quantizers as one row of numbers."""

    def __init__(self, quantizers: dict[str, FakeQuantizer]) -> None:
        self._names = list(quantizers)
        self._parameters = [quantizer.scale for quantizer in quantizers.values()]
        self._ends = torch.tensor(
            list(accumulate(local(scale).numel() for scale in self._parameters))
        )

    def __len__(self) -> int:
        return len(self._names)

    def values(self) -> Tensor:
        """Return the scales: floats (scales,)."""
        parts = [local(scale).reshape(-1) for scale in self._parameters]
        return torch.cat(parts).detach() if parts else torch.zeros(0)

    def without_gradient(self) -> Tensor:
        """Return which scales have a gradient of 0: bool (scales,)."""
        grads = [local(s.grad).reshape(-1) for s in self._parameters if s.grad is not None]
        if len(grads) < len(self._parameters) or not grads:
            return torch.zeros_like(self.values(), dtype=torch.bool)
        return torch.cat(grads) == 0

    def owners(self, mask: Tensor) -> list[str]:
        """Return the names of the quantizers that have one of the scales in `mask`."""
        places = torch.bucketize(mask.nonzero().flatten().cpu(), self._ends, right=True)
        return list(dict.fromkeys(self._names[place] for place in places.tolist()))


class Watch:
    """Checks every optimizer step of a model, prepared or float.

    Args:
        model: A float model, or a prepared and calibrated one; on its device.
        scaled: Whether a GradScaler skips steps whose gradients are not finite.
        prefix: Prefix of the names in the model that messages leave out.

    Attributes:
        step: The optimizer step that is checked next, from 0; set it when training is resumed.
        skipped: Number of steps that a GradScaler has skipped.
        late: Whether a step is judged at the check after it.

    Examples:
        >>> watch = qs.Watch(layer)
        >>> loss = layer(x).sum()
        >>> loss.backward()
        >>> watch.check(loss)  # raises DivergedError where a number is not finite
    """

    def __init__(self, model: nn.Module, *, scaled: bool = False, prefix: str = "") -> None:
        self._model = unwrapped(model)
        self._scaled, self._prefix = scaled, prefix
        self.step = self.skipped = 0
        self._in_a_row = self._look_from = 0
        self._parameters = list(self._model.parameters())
        self.late = bool(self._parameters) and self._parameters[0].device.type != "cpu"
        self._pending: _Reading | None = None
        quantizers = {
            name: module
            for name, module in named_modules(self._model)
            if isinstance(module, FakeQuantizer)
        }
        self._scales = _Scales(quantizers)
        self._input_scales = _Scales(  # their gradient is 0 if the input is
            {name: q for name, q in quantizers.items() if q.history is None and q.offset is None}
        )
        self._first = self._scales.values().abs()
        values = (self._first, self._first, self._input_scales.values())
        self._known = [torch.zeros_like(each, dtype=torch.bool) for each in values]

    @torch.no_grad()
    def check(self, loss: Tensor | None = None, forward: Callable[[], Any] | None = None) -> None:
        """Check a step; call this after the backward pass and before the optimizer step.

        Args:
            loss: A scalar, or None.
            forward: Runs the forward pass of this step again. Without it, messages do not name the
                layer whose output is wrong, and inputs of zeros are not found.

        Raises:
            DivergedError: Gradients or loss are not finite, or too many steps were skipped.
        """
        reading = self._read(loss, forward)
        if self.late:
            reading, self._pending = self._pending, reading
        if reading is not None:
            self._judge(reading)
        self.step += 1

    @torch.no_grad()
    def settle(self) -> None:
        """Judge the pending step, and check every weight, scale and running statistic.

        Call this in all processes before a checkpoint replaces the last good one.

        Raises:
            DivergedError: A number is not finite.
        """
        self._judge_pending()
        if self._scaled:
            self._tell_mended(self.step)
        bad = faults.broken_parameter(self._model) or faults.broken_statistic(self._model)
        if found := [each for each in processes.gathered_objects(bad) if each]:
            raise DivergedError(
                f"before step {self.step} {describe_parameter(self._shown(found[0]))}"
            )

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and the first scales, which later scales are compared with.

        Raises:
            DivergedError: The pending step is wrong; see `check`.
        """
        self._judge_pending()
        return {
            "version": 1,
            "step": self.step,
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "look_from": self._look_from,
            "first": self._first.clone(),
            "known": [each.clone() for each in self._known],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; scales are compared only if their number is the same.

        Raises:
            ValueError: The state contradicts itself.
        """
        self.step, self.skipped = state["step"], state["skipped"]
        self._in_a_row, self._look_from = state["in_a_row"], state["look_from"]
        if state["first"].shape == self._first.shape:
            if [each.shape for each in state["known"]] != [each.shape for each in self._known]:
                raise ValueError("the saved state has masks for another number of scales")
            self._first.copy_(state["first"])
            self._known = [each.to(self._first.device).bool() for each in state["known"]]

    def _read(self, loss: Tensor | None, forward: Callable[[], Any] | None) -> _Reading:
        grads = [local(p.grad) for p in self._parameters if p.grad is not None]
        norms = torch._foreach_norm(grads) if grads else [self._first.sum()]  # pyright: ignore
        finite = torch.stack([norm.to(self._first.device) for norm in norms]).isfinite().all()
        if loss is not None:
            loss = loss.detach().clone()
            finite = finite & loss.isfinite().to(finite.device)
        fresh = []
        if len(self._scales):
            scales = self._scales.values()
            finite = finite & scales.isfinite().all()
            small, negative = scales.abs() < SMALL * self._first, scales < 0
            now = [small, negative, self._input_scales.without_gradient()]
            fresh = [new & ~old for new, old in zip(now, self._known, strict=True)]
            self._known = [old | new for new, old in zip(fresh, self._known, strict=True)]
        flags = torch.stack([~finite, *(each.any() for each in fresh)]).float()
        flags = Deferred(processes.largest(flags))
        return _Reading(self.step, flags, fresh, loss, forward)

    def _judge_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._judge(pending)

    def _judge(self, reading: _Reading) -> None:
        broken, *news = map(bool, reading.flags.read())
        found = None
        if broken:
            # in a row of skipped steps only the first is run again
            forward = reading.forward if self._in_a_row == 0 else None
            found = explain(self._model, reading.loss, forward, self._shown)
        if found is None:  # a gradient that is only too large for the norm, too
            self._in_a_row = 0
        else:
            self._stop_or_skip(reading.step, found)
        for new, mask, tell in zip(news, reading.fresh, _TELL, strict=False):
            if new:
                self._tell(reading, mask, tell)

    def _stop_or_skip(self, step: int, found: Finding) -> None:
        if not self._scaled or found.lasting:
            raise DivergedError(f"{found.what} at step {step}: {found.where}")
        self.skipped += 1
        self._in_a_row += 1
        self._tell_mended(step)
        if self._in_a_row == 1:  # scalers try a larger scale now and then
            level = logging.WARNING if found.loss else logging.INFO
            told = (step, found.what, found.where)
            log.log(level, "step %d is skipped, float16 overflowed: %s; %s", *told)
        if self._in_a_row >= MOST_SKIPPED:
            raise DivergedError(
                f"{found.what} at step {step} and in the {MOST_SKIPPED - 1} before it, all skipped "
                f"by the GradScaler: {found.where}, or train in bfloat16 or float32"
            )

    def _tell_mended(self, step: int) -> None:
        for name in faults.reset_statistics(self._model):
            log.warning(
                "the running statistics of the batch norm %r were not finite at step %d; they "
                "were reset",
                self._shown(name),
                step,
            )

    def _tell(self, reading: _Reading, mask: Tensor, tell: str) -> None:
        found = (self._input_scales if tell == _SILENT else self._scales).owners(mask)
        if tell == _SILENT:
            if reading.forward is None:
                return  # the gradient may be 0 for other reasons
            if reading.step < self._look_from:
                self._known[-1] &= ~mask  # report it at a later search
                return
            self._look_from = reading.step + LOOK_EVERY
            silent = set(faults.run_again(self._model, reading.forward).silent)
            found = [name for name in found if layer_of(f"{name}.scale") in silent]
        for name in found:
            kind = "input" if name.endswith("input_quantizer") else "weight"
            log.warning(tell, kind, self._shown(layer_of(f"{name}.scale")), reading.step)

    def _shown(self, name: str) -> str:
        return name.removeprefix(self._prefix)


_SILENT = (
    "the %s of the layer %r is zero everywhere at step %d: the layer returns only its bias, and "
    "its input scale does not learn; look at the layers before it"
)
_TELL = (
    "the %s scale of the layer %r has fallen to less than a thousandth of its first value at step "
    "%d: the output of the layer is almost 0; lower the learning rate of the scales",
    "the %s scale of the layer %r went below 0 at step %d; its magnitude is used. Lower the "
    "learning rate of the scales if this happens again",
    _SILENT,
)
"""Warnings for small, negative and silent scales."""
