"""Connects tracker and cures to an optimizer with two lines in the training loop.

    control = Control(optimizer, weights, tracker, [Freezing(0.02)])
    loss = loss + control.penalty()

Tracker and cures run in a hook of the optimizer step. Gradient accumulation, evaluation, several
forward passes per step and steps skipped by a GradScaler are therefore handled correctly.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from quiesce.cures.cure import Cure
from quiesce.cures.learning_rates import learning_rates
from quiesce.cures.omissions import Omissions, warn_of_restart
from quiesce.cures.step_hooks import decayed_scales, hooked_optimizers
from quiesce.errors import TrackingError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.quantization.quantized_weight import QuantizedWeight

log = logging.getLogger("quiesce.control")


class Control:
    """Runs the tracker and the cures once after every optimizer step.

    Args:
        optimizer: The optimizer of the weights, or several if weights and scales have separate
            ones. A step is then complete when all have stepped, or when one begins its next step.
            The wrappers of Accelerate, Lightning and Fabric are removed.
        weights: The weights, as returned by `quantized_weights`.
        tracker: The tracker of these weights.
        cures: Cures, applied in this order.
        total: Optimizer steps of the whole training. Cures that aim at a share of oscillating
            weights at its end need it; others ignore it.

    Raises:
        TrackingError: No optimizer updates any of the weights; a weight is updated but its scale is
            not (unless the scale requires no gradient); the tracker follows other weights; the step
            of an optimizer calls no hooks; or a cure is not defined for these weights, or does not
            work with another one.
        TypeError: `cures` is not a list of cures.
        ValueError: `total` is below 1.

    Warns:
        UserWarning: Scales share a parameter group with weights, and the group has weight decay.
            Later, once: the loop omits the penalty, or the optimizer has stepped before and no
            state was loaded.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.05)])
        >>> loss = layer(x).sum() + control.penalty()
        >>> loss.backward()
        >>> optimizer.step()
        >>> control.step
        1
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        weights: Sequence[QuantizedWeight],
        tracker: OscillationTracker,
        cures: Sequence[Cure] = (),
        *,
        total: int | None = None,
    ) -> None:
        if total is not None and total < 1:
            raise ValueError(f"total must be at least 1 optimizer step, got {total}")
        cures = _checked(cures)
        optimizers = hooked_optimizers(optimizer)
        _check(optimizers, weights, tracker)
        _warn_of_decay(optimizers, weights)
        self.weights = list(weights)
        self.tracker = tracker
        self.cures = cures
        self.step = 0
        self._stepped: set[int] = set()
        self._fresh = True  # no step, and no state loaded
        self._omissions = Omissions(self.cures)
        self._optimizers = optimizers
        for cure in self.cures:
            cure.refuse([other for other in self.cures if other is not cure])
            cure.total = total
            cure.attach(self.weights, tracker)
        self._warned = False
        self._warn_of_outgrown()
        self._listen()

    def penalty(self) -> Tensor:
        """Return the penalty of the cures for the next step: a scalar, 0 if there is none."""
        self._omissions.penalty_taken(self.step)
        terms = [cure.penalty(self.step) for cure in self.cures]
        present = [term for term in terms if term is not None]
        if not present:
            return torch.zeros((), device=self.weights[0].latent.device)
        return torch.stack(present).sum()

    @property
    def penalty_missing(self) -> bool:
        """Return whether a cure has a penalty for the next step and `penalty` was never called."""
        return self._omissions.penalty_missing(self.step)

    def finish(self) -> None:
        """Let the cures act on the weights after the last optimizer step.

        The callbacks for trainers call this. In a loop of your own, call it before you evaluate,
        strip or export the network; most cures then do nothing.
        """
        for cure in self.cures:
            cure.finish()

    def report(self) -> list[dict[str, Any]]:
        """Return what each cure has done: its name as "cure", then its `report`."""
        return [
            {"cure": type(cure).__name__, **did} for cure in self.cures if (did := cure.report())
        ]

    def close(self) -> None:
        """Remove the hooks from the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register hooks on the copied optimizers, because copying an optimizer drops its hooks."""
        vars(self).update(state)
        if self._handles:
            self._listen()

    def state_dict(self) -> dict[str, Any]:
        """Return step count, the state of tracker and cures, and what that of the model lacks.

        The state of a prepared model contains the frozen codes. That of another toolkit does not,
        so they are here; see `quiesce.attach`.
        """
        return {
            "version": 1,
            "step": self.step,
            "stepped": [i in self._stepped for i in range(len(self._optimizers))],
            "tracker": self.tracker.state_dict(),
            "weights": {weight.name: weight.state_dict() for weight in self.weights},
            "cures": [[type(cure).__name__, state] for cure, state in self._states()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`. Load the state of the model too.

        Raises:
            TrackingError: The state belongs to a different tracker, to different optimizers, or to
                different cures.
        """
        stepped = state["stepped"]
        if len(stepped) != len(self._optimizers):
            raise TrackingError(
                f"the saved control was for {len(stepped)} optimizers, this one is for "
                f"{len(self._optimizers)}; make it with the same ones before loading"
            )
        self._load_cures(state.get("cures", []))
        self.tracker.load_state_dict(state["tracker"])
        kept = state.get("weights", {})  # earlier versions have none
        for weight in self.weights:
            weight.load_state_dict(kept.get(weight.name, {}))
        self.step, self._fresh = state["step"], False
        self._stepped = {i for i, did in enumerate(stepped) if did}

    def _states(self) -> list[tuple[Cure, dict[str, Any]]]:
        """Return the cures that have a state of their own, and their states."""
        return [(cure, state) for cure in self.cures if (state := cure.state_dict())]

    def _load_cures(self, saved: Sequence[Any]) -> None:
        mine = [cure for cure, _ in self._states()]
        names = [type(cure).__name__ for cure in mine], [name for name, _ in saved]
        if names[0] != names[1]:
            raise TrackingError(
                f"the saved control has the state of other cures ({', '.join(names[1]) or 'none'}; "
                f"here {', '.join(names[0]) or 'none'}); make it with the same cures before loading"
            )
        for cure, (_, state) in zip(mine, saved, strict=True):
            cure.load_state_dict(state)

    def _listen(self) -> None:
        self._handles = [
            handle
            for one in self._optimizers
            for handle in (
                one.register_step_pre_hook(self._before_step),
                one.register_step_post_hook(self._after_step),
            )
        ]

    def _position(self, optimizer: Optimizer) -> int:
        return next(i for i, one in enumerate(self._optimizers) if one is optimizer)

    def _warn_of_outgrown(self) -> None:
        """Warn once if float weights were loaded after the scales were computed."""
        names = [weight.name for weight in self.weights if weight.outgrown]
        if names and not self._warned:
            self._warned = True
            log.warning(
                "the scales of %d weights (%s%s) do not fit: the weights are much larger or "
                "smaller than when their scales were found. Were float weights loaded after "
                "quiesce.prepare? Call quiesce.measure_weights(model), or quiesce.calibrate",
                len(names),
                ", ".join(names[:5]),
                " ..." if len(names) > 5 else "",
            )

    # a compiled optimizer calls the hooks, but does not compile them

    @_disable_dynamo
    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._fresh:
            self._fresh = False
            warn_of_restart(self._optimizers)
        if self._position(optimizer) in self._stepped:  # another one skipped the previous step
            self._finish()
        if self._stepped:
            return
        if self.tracker.steps == 0:
            self._warn_of_outgrown()
        preparing = [cure for cure in self.cures if _overrides(cure, "before_step")]
        if preparing:
            rates = learning_rates(self._optimizers, self.weights)
            for cure in preparing:
                cure.before_step(self.step, rates)

    @_disable_dynamo
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        # GradScaler calls a fused optimizer even for a skipped step, and passes a flag.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        self._stepped.add(self._position(optimizer))
        if len(self._stepped) == len(self._optimizers):
            self._finish()

    def _finish(self) -> None:
        self._stepped.clear()
        self._omissions.step_taken(self.step, self._optimizers)
        for cure in self.cures:
            cure.after_update(self.step)
        self.tracker.step()
        for cure in self.cures:
            cure.after_step(self.step)
        self.step += 1


def _overrides(cure: Cure, method: str) -> bool:
    return getattr(type(cure), method) is not getattr(Cure, method)


def _checked(cures: object) -> list[Cure]:
    if isinstance(cures, list | tuple) and all(isinstance(cure, Cure) for cure in cures):
        return list(cures)
    wrong = cures
    if isinstance(cures, list | tuple):
        wrong = next(cure for cure in cures if not isinstance(cure, Cure))
    name = type(wrong).__name__
    if isinstance(cures, Cure):
        advice = f"put it into one: cures=[quiesce.{name}(...)]"
    elif isinstance(wrong, type) and issubclass(wrong, Cure):
        name = f"class, {wrong.__name__}"
        advice = f"make one of it: cures=[quiesce.{wrong.__name__}(...)]"
    else:
        advice = "pass for example cures=[quiesce.Freezing(0.02)]"
    told = repr(wrong) if isinstance(wrong, str) else f"a {name}"
    raise TypeError(f"cures must be a list of cures, got {told}; {advice}")


def _check(
    optimizers: Sequence[Optimizer], weights: Sequence[QuantizedWeight], tracker: OscillationTracker
) -> None:
    moved = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    if not any(id(weight.latent) in moved for weight in weights):
        raise TrackingError(
            "the optimizer moves none of these weights; make it from the parameters of the model "
            "that was prepared"
        )
    for weight in weights:
        if weight.locked or id(weight.latent) not in moved:
            continue
        if any(s.requires_grad and id(s) not in moved for s in weight.scale_parameters):
            raise TrackingError(
                f"no optimizer moves the scale of {weight.name!r}; make the optimizer after "
                "quiesce.prepare (in other toolkits: after a state_dict was loaded), or leave the "
                "scales as calibrated: requires_grad_(False) on each of "
                "quiesce.quantizer_parameters(model)"
            )
    followed = {id(weight.latent) for weight in tracker.weights}
    if any(id(weight.latent) not in followed for weight in weights):
        raise TrackingError("the tracker follows other weights; make both from the same list")


def _warn_of_decay(optimizers: Sequence[Optimizer], weights: Sequence[QuantizedWeight]) -> None:
    count = decayed_scales(optimizers, (s for weight in weights for s in weight.scale_parameters))
    if count:
        warnings.warn(
            f"the optimizer applies weight decay to {count} scales, which shrinks the grid under "
            "the weights; make it from quiesce.parameter_groups(model, weight_decay=...), or give "
            "the scales (quiesce.quantizer_parameters(model)) a group of their own",
            stacklevel=3,
        )
