"""Explains why a step cannot be taken: which number is not finite, in which layer and process."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from quiesce.health import faults
from quiesce.health.faults import layer_of
from quiesce.parallel import processes

_RATE = "the learning rate"
_SCALES_RATE = "the learning rate of the scales (scales_optimizer.lr in a recipe)"


class Finding(NamedTuple):
    """The problem of a step."""

    loss: bool
    """Whether the problem is the loss; otherwise it is a gradient."""
    what: str
    where: str
    lasting: bool
    """Whether a weight or scale is not finite, so that skipping the step does not help."""


def explain(
    model: nn.Module,
    loss: Tensor | None,
    forward: Callable[[], Any] | None,
    shown: Callable[[str], str],
) -> Finding | None:
    """Find numbers that are not finite. All processes call this together and get the same result.

    Args:
        loss: A scalar, or None.
        forward: Runs the forward pass of the step again, in all processes, or None in all.
        shown: Function from a name in the model to the name in messages.

    Returns:
        The finding of the first process whose loss, or else gradient, is wrong; None if all is
        finite.
    """
    value = None if loss is None else float(loss)
    wrong = value is not None and not abs(value) < float("inf")
    gradient, parameter = faults.broken_gradient(model), faults.broken_parameter(model)
    mine = wrong or bool(gradient or parameter)
    if not any(processes.gathered_objects(mine)):
        return None
    seen = None if forward is None else faults.run_again(model, forward)
    if parameter is not None:
        where = describe_parameter(shown(parameter))
    elif seen is not None and seen.broken is not None:
        where = _describe_output(seen, shown(seen.broken))
    elif wrong:
        where = _describe_loss(seen)
    else:
        where = _describe_gradient(None if gradient is None else shown(gradient))
    what = f"the loss is {value}" if wrong else "a gradient is not finite"
    found = processes.gathered_objects(
        Finding(wrong, what, where, parameter is not None) if mine else None
    )
    return _joined(found)


def describe_parameter(name: str) -> str:
    """Describe a parameter or running statistic that is not finite, and the remedy."""
    scale = name.endswith(("scale", "offset"))
    what = "a scale" if scale else "a statistic" if "running_" in name else "a weight"
    return (
        f"{what} of the layer {layer_of(name)!r} ({name}) is not finite; lower "
        f"{_SCALES_RATE if scale else _RATE}"
    )


def _describe_output(seen: faults.Forward, name: str) -> str:
    what, remedy = ("the input of", "look at the batch") if seen.fed else ("the output of", "")
    dtype = str(seen.dtype).removeprefix("torch.")
    return (
        f"{what} the layer {name!r} ({dtype}) is the first that is not finite; "
        f"{remedy or f'lower {_RATE}'}"
    )


def _describe_loss(seen: faults.Forward | None) -> str:
    if seen is None:
        return f"all weights and scales are finite; lower {_RATE}"
    return (
        "the output of every layer is finite, but the loss or a penalty in it is not; lower "
        f"{_RATE} or the strength of the cure"
    )


def _describe_gradient(name: str | None) -> str:
    if name is None:
        return f"all weights and scales are finite; lower {_RATE}"
    return (
        f"the first in the backward pass is in the layer {layer_of(name)!r} ({name}); lower {_RATE}"
    )


def _joined(found: list[Finding | None]) -> Finding:
    culprits = [rank for rank, each in enumerate(found) if each and each.loss]
    culprits = culprits or [rank for rank, each in enumerate(found) if each]
    first = found[culprits[0]]
    if first is None:
        raise AssertionError("no rank has a finding")
    if len(culprits) == len(found):
        return first
    which = ", ".join(map(str, culprits))
    return first._replace(what=f"{first.what} in rank {which} of {len(found)}")
