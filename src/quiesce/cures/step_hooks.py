"""Which optimizers tell of their steps: those whose step calls the hooks of torch.optim.

An optimizer of torch calls hooks around its step, and so do subclasses that call its constructor. A
wrapper often does neither. Where its step only calls that of the optimizer inside, the hooks belong
on the latter. Any other wrapper is refused, since its steps would pass unseen.
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from quiesce.errors import TrackingError

_INNER = ("optimizer", "_base_optimizer")
"""Where wrappers whose step is one step of the optimizer inside keep it: Accelerate, timm."""
_ENGINES = {"DEEPSPEED": "DeepSpeed", "FSDP": "FSDP", "MEGATRON_LM": "Megatron-LM"}
"""Distributed types of Accelerate that keep the weights where a tracker does not find them."""


def hooked_optimizers(given: object) -> list[Optimizer]:
    """The optimizers whose hooks are called once for each step of what the user gave.

    Args:
        given: An optimizer, a wrapper around one, or several of them.

    Raises:
        TrackingError: The step of one of them calls no hooks, or it is no optimizer; or it belongs
            to an engine of Accelerate that is not supported.
    """
    several = given if isinstance(given, Iterable) else [given]
    return [_hooked(each) for each in several]


def refuse_engine(optimizer: object) -> None:
    """Refuse an optimizer that Accelerate has made part of DeepSpeed, FSDP or Megatron-LM.

    Raises:
        TrackingError: It is.
    """
    kind = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", None)
    if engine := _ENGINES.get(str(getattr(kind, "value", kind))):
        raise TrackingError(
            f"quiesce does not support {engine} under Accelerate; train with DDP, or with "
            "torch's fully_shard in a loop without Accelerate (docs/how-to/cluster.md)"
        )


def _hooked(given: object) -> Optimizer:
    refuse_engine(given)
    inside: object = given
    while not (isinstance(inside, Optimizer) and getattr(type(inside).step, "hooked", False)):
        found = [vars(inside)[name] for name in _INNER if name in getattr(inside, "__dict__", {})]
        if not found:
            raise TrackingError(
                f"{type(given).__name__} does not call the step hooks of torch.optim.Optimizer, so "
                "its steps can not be counted; give Control the optimizer inside it whose step() "
                "is called once per training step, or have the class call super().__init__()"
            )
        inside = found[0]
    return inside


def decayed_scales(optimizers: Iterable[Optimizer], scales: Iterable[nn.Parameter]) -> int:
    """How many scales are decayed as if they were weights: in one group with other parameters.

    A group of scales alone was made on purpose.
    """
    known = {id(scale) for scale in scales}
    count = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            mine = sum(id(parameter) in known for parameter in group["params"])
            if group.get("weight_decay") and mine < len(group["params"]):
                count += mine
    return count
