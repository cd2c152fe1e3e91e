"""Numbers that go wrong in training: seen in their step, named by layer, told or stopped.

    watch = Watch(model)
    for images, labels in batches:
        loss = cross_entropy(model(images), labels)
        loss.backward()
        watch.check(loss, lambda: model(images))
        optimizer.step()

A check reads the norm of all gradients, the loss, and the scales: some thousandths of a step.
Only when one of them is wrong the layers are looked at one by one. Where torch.distributed is
initialised every rank has to check; all come to the same verdict, so that none is left waiting. An
accelerator is not waited for: there a step is judged when the next one is checked, and before a
checkpoint.

What is found, and what then (docs/reliability.md):

    loss or gradient is NaN or inf     DivergedError, before the step is taken
    the same under a GradScaler        survived: it skips the step; after MOST_SKIPPED in a row an
                                       error. Running statistics that broke start anew
    scale below SMALL of its first     survived, told once: max(|scale|, 2^-40) is what is used
    scale below 0                      survived, told once: its magnitude is used
    input zero throughout              survived, told once: its scale stays where it is
"""

import logging
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quiesce.errors import DivergedError
from quiesce.files.untrusted.typed_values import count
from quiesce.health import faults
from quiesce.health.deferred import Deferred
from quiesce.health.explanations import Finding, explain, parameter_told
from quiesce.health.faults import layer_of, local
from quiesce.parallel import processes
from quiesce.quantization.quantizer import FakeQuantizer

MOST_SKIPPED = 50
"""Steps that a GradScaler may skip one after the other: it halves its scale with each."""
SMALL = 2.0**-10
"""Share of its first value below which a scale is told of."""
LOOK_EVERY = 100
"""Steps between two looks for inputs of zeros: a gradient may be 0 for other reasons too."""

log = logging.getLogger("quiesce.watching")


class _Reading(NamedTuple):
    """What a check read of one step."""

    step: int
    flags: Deferred
    """Of any rank: gradients or loss are broken, and which kinds of scales are new."""
    fresh: list[Tensor]
    """Masks of the scales that are newly small, negative, and silent."""
    loss: Tensor | None
    forward: Callable[[], Any] | None


class _Scales:
    """Scales of some quantizers as one row of numbers."""

    def __init__(self, quantizers: dict[str, FakeQuantizer]) -> None:
        self._names = list(quantizers)
        self._parameters = [quantizer.scale for quantizer in quantizers.values()]
        self._ends = torch.tensor(
            list(accumulate(local(scale).numel() for scale in self._parameters))
        )

    def __len__(self) -> int:
        return len(self._names)

    def values(self) -> Tensor:
        """The scales: floats (scales,)."""
        parts = [local(scale).reshape(-1) for scale in self._parameters]
        return torch.cat(parts).detach() if parts else torch.zeros(0)

    def without_gradient(self) -> Tensor:
        """Which of them have a gradient of 0: bool (scales,)."""
        grads = [local(s.grad).reshape(-1) for s in self._parameters if s.grad is not None]
        if len(grads) < len(self._parameters) or not grads:
            return torch.zeros_like(self.values(), dtype=torch.bool)
        return torch.cat(grads) == 0

    def owners(self, mask: Tensor) -> list[str]:
        """Names of the quantizers that have one of those scales."""
        places = torch.bucketize(mask.nonzero().flatten().cpu(), self._ends, right=True)
        return list(dict.fromkeys(self._names[place] for place in places.tolist()))


class Watch:
    """Looks at every optimizer step of a model, prepared or float.

    Args:
        model: Prepared and calibrated, or float; on its device.
        scaled: Whether a GradScaler skips the steps whose gradients are not finite.
        prefix: What the names of the model have in front that messages leave out.

    Attributes:
        step: The optimizer step that is checked next, from 0; set it when training goes on.
        skipped: Steps so far that a GradScaler has skipped.
        late: Whether a step is judged at the check after it.
    """

    def __init__(self, model: nn.Module, *, scaled: bool = False, prefix: str = "") -> None:
        self._model = processes.unwrapped(model)
        self._scaled, self._prefix = scaled, prefix
        self.step = self.skipped = 0
        self._in_a_row = self._look_from = 0
        self._parameters = list(self._model.parameters())
        self.late = bool(self._parameters) and self._parameters[0].device.type != "cpu"
        self._pending: _Reading | None = None
        quantizers = {
            name: module
            for name, module in self._model.named_modules()
            if isinstance(module, FakeQuantizer)
        }
        self._scales = _Scales(quantizers)
        self._input_scales = _Scales(  # those whose gradient is 0 where the input is
            {name: q for name, q in quantizers.items() if q.history is None and q.offset is None}
        )
        self._first = self._scales.values().abs()
        values = (self._first, self._first, self._input_scales.values())
        self._known = [torch.zeros_like(each, dtype=torch.bool) for each in values]

    @torch.no_grad()
    def check(self, loss: Tensor | None = None, forward: Callable[[], Any] | None = None) -> None:
        """Look at a step: call it after the backward, before the optimizer.

        Args:
            loss: A scalar, or None.
            forward: Runs the forward of this step again. Without it, a layer is not named by its
                output, and inputs of zeros are not told of.

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
        """Judge what is pending, and look at every weight, scale and statistic.

        Call it before a checkpoint replaces the last good one. Every rank has to.

        Raises:
            DivergedError: Something is not finite.
        """
        self._judge_pending()
        if self._scaled:
            self._tell_mended(self.step)
        bad = faults.broken_parameter(self._model) or faults.broken_statistic(self._model)
        if found := [each for each in processes.told(bad) if each]:
            raise DivergedError(f"before step {self.step} {parameter_told(self._shown(found[0]))}")

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Counts, and the scales that later ones are compared with.

        Raises:
            DivergedError: As `check`, of the step that is pending: it counts too.
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
        """Go on from `state_dict`; scales of another number than now are not compared with.

        Raises:
            ValueError: What is known of the scales is not of as many of them.
        """
        self.step, self.skipped = count(state["step"]), count(state["skipped"])
        self._in_a_row, self._look_from = count(state["in_a_row"]), count(state["look_from"])
        if state["first"].shape == self._first.shape:
            if [each.shape for each in state["known"]] != [each.shape for each in self._known]:
                raise ValueError("the saved watch knows of another number of scales than it has")
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
            # the later ones of a row are not run again: their reason is that of the first
            forward = reading.forward if self._in_a_row == 0 else None
            found = explain(self._model, reading.loss, forward, self._shown)
        if found is None:  # also where a gradient was only too large for the norm
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
        if self._in_a_row == 1:  # a scaler that tries a larger scale now and then is no news
            level = logging.WARNING if found.loss else logging.INFO
            told = (step, found.what, found.where)
            log.log(level, "step %d is skipped, float16 overflowed: %s; %s", *told)
        if self._in_a_row >= MOST_SKIPPED:
            raise DivergedError(
                f"{found.what} at step {step} and in the {MOST_SKIPPED - 1} before it, all skipped "
                f"by the GradScaler: {found.where}, or train in bfloat16 or float32"
            )

    def _tell_mended(self, step: int) -> None:
        for name in faults.mend_statistics(self._model):
            log.warning(
                "the running statistics of the batch norm %r were not finite at step %d; they "
                "start anew",
                self._shown(name),
                step,
            )

    def _tell(self, reading: _Reading, mask: Tensor, tell: str) -> None:
        found = (self._input_scales if tell == _SILENT else self._scales).owners(mask)
        if tell == _SILENT:
            if reading.forward is None:
                return  # a gradient may be 0 for other reasons, and there is no way to know
            if reading.step < self._look_from:
                self._known[-1] &= ~mask  # then it is new again
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
    "the %s of the layer %r is zero throughout at step %d: the layer gives nothing but its bias, "
    "and its input scale learns nothing; look at what comes before it"
)
_TELL = (
    "the %s scale of the layer %r has fallen to less than a thousandth of its first value at step "
    "%d: the layer passes hardly anything on; lower the learning rate of the scales",
    "the %s scale of the layer %r went below 0 at step %d; its magnitude is used. Lower the "
    "learning rate of the scales if it goes on",
    _SILENT,
)
"""Of small, negative and silent scales."""
