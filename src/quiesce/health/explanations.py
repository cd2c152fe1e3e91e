"""Why a step can not be taken: what is not finite, in which layer and rank, how to mend it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from quiesce.health import faults
from quiesce.health.faults import layer_of
from quiesce.parallel import processes

_RATE = "the learning rate"
_SCALES_RATE = "the learning rate of the scales (scales_optimizer.lr in a recipe)"


class Finding(NamedTuple):
    """What is wrong with a step."""

    loss: bool
    """Whether it is the loss, else a gradient."""
    what: str
    where: str
    lasting: bool
    """Whether a weight or scale is broken, which skipping the step does not mend."""


def explain(
    model: nn.Module,
    loss: Tensor | None,
    forward: Callable[[], Any] | None,
    shown: Callable[[str], str],
) -> Finding | None:
    """Find what is not finite; every rank has to ask, and all get the same answer.

    Args:
        model: After the backward.
        loss: A scalar, or None.
        forward: Runs the forward of the step again, in all ranks or in none.
        shown: Name in the model to the name in messages.

    Returns:
        The finding of the rank whose loss is broken, if there is one; None where all is finite.
    """
    value = None if loss is None else float(loss)
    wrong = value is not None and not abs(value) < float("inf")
    gradient, parameter = faults.broken_gradient(model), faults.broken_parameter(model)
    mine = wrong or bool(gradient or parameter)
    if not any(processes.told(mine)):
        return None
    seen = None if forward is None else faults.run_again(model, forward)
    if parameter is not None:
        where = parameter_told(shown(parameter))
    elif seen is not None and seen.broken is not None:
        where = _output_told(seen, shown(seen.broken))
    elif wrong:
        where = _loss_told(seen)
    else:
        where = _gradient_told(None if gradient is None else shown(gradient))
    what = f"the loss is {value}" if wrong else "a gradient is not finite"
    found = processes.told(Finding(wrong, what, where, parameter is not None) if mine else None)
    return _joined(found)


def parameter_told(name: str) -> str:
    """Say that a parameter or a running statistic is broken, and what to do."""
    scale = name.endswith(("scale", "offset"))
    what = "a scale" if scale else "a statistic" if "running_" in name else "a weight"
    return (
        f"{what} of the layer {layer_of(name)!r} ({name}) is not finite any more; lower "
        f"{_SCALES_RATE if scale else _RATE}"
    )


def _output_told(seen: faults.Forward, name: str) -> str:
    what, mend = ("what goes into", "look at the batch") if seen.fed else ("the output of", "")
    dtype = str(seen.dtype).removeprefix("torch.")
    return (
        f"{what} the layer {name!r} ({dtype}) is the first that is not finite; "
        f"{mend or f'lower {_RATE}'}"
    )


def _loss_told(seen: faults.Forward | None) -> str:
    if seen is None:
        return f"all weights and scales are finite; lower {_RATE}"
    return (
        "every layer's output is finite, the loss itself or a penalty in it is not; lower "
        f"{_RATE} or the strength of the cure"
    )


def _gradient_told(name: str | None) -> str:
    if name is None:
        return f"all weights and scales are finite; lower {_RATE}"
    return f"the backward met it first in the layer {layer_of(name)!r} ({name}); lower {_RATE}"


def _joined(found: list[Finding | None]) -> Finding:
    culprits = [rank for rank, each in enumerate(found) if each and each.loss]
    culprits = culprits or [rank for rank, each in enumerate(found) if each]
    first = found[culprits[0]]
    if first is None:
        raise AssertionError("a culprit has a finding")
    if len(culprits) == len(found):
        return first
    which = ", ".join(map(str, culprits))
    return first._replace(what=f"{first.what} in rank {which} of {len(found)}")
