"""Detection of optimizers whose step calls the hooks of torch.optim.

A torch optimizer calls hooks around its step, and so do subclasses that call its constructor. Many
wrappers do not. If the step of a wrapper only calls that of the inner optimizer, the hooks are
registered on the inner optimizer. Any other wrapper raises an error, because its steps could not be
observed.
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from quiesce.errors import TrackingError

_INNER = ("optimizer", "_base_optimizer", "_optimizer")
"""Attributes with the inner optimizer of wrappers that only call its step: Accelerate, timm,
Lightning and its Fabric."""
_ENGINES = {"DEEPSPEED": "DeepSpeed", "FSDP": "FSDP", "MEGATRON_LM": "Megatron-LM"}
"""Distributed types of Accelerate that store the weights where a tracker cannot find them."""

_STRATEGIES = {
    "DeepSpeedStrategy": "DeepSpeed steps in its engine, on weights that it keeps elsewhere",
    "FSDPStrategy": "FSDP 1 joins weights into flat parameters",
}
"""Strategies of Lightning and Fabric that a tracker cannot follow, and why."""


def hooked_optimizers(given: object) -> list[Optimizer]:
    """Return the optimizers inside wrappers whose step hooks run, or raise a TrackingError."""
    several = given if isinstance(given, Iterable) else [given]
    return [_hooked(each) for each in several]


def refuse_engine(given: object) -> None:
    """Raise a TrackingError if DeepSpeed, FSDP 1 or Megatron-LM holds the weights.

    Args:
        given: A strategy of Lightning or Fabric, or an optimizer that these or Accelerate have
            wrapped. Accelerate's FSDP 2 is refused too.
    """
    kind = getattr(getattr(given, "accelerator_state", None), "distributed_type", None)
    if engine := _ENGINES.get(str(getattr(kind, "value", kind))):
        raise TrackingError(
            f"quiesce does not support {engine} under Accelerate; train with DDP, or with "
            "torch's fully_shard in a loop without Accelerate (docs/how-to/cluster.md)"
        )
    strategy = getattr(given, "_strategy", given).__class__  # of what a weak proxy stands for
    for name in (each.__name__ for each in strategy.__mro__):
        if engine := _STRATEGIES.get(name):
            raise TrackingError(
                f"quiesce does not support the {name} of Lightning, because {engine}; train with "
                "DDP, or with a ModelParallelStrategy (docs/how-to/cluster.md)"
            )


def _hooked(given: object) -> Optimizer:
    refuse_engine(given)
    inside: object = given
    while not (isinstance(inside, Optimizer) and getattr(type(inside).step, "hooked", False)):
        found = [vars(inside)[name] for name in _INNER if name in getattr(inside, "__dict__", {})]
        if not found:
            raise TrackingError(
                f"{type(given).__name__} does not call the step hooks of torch.optim.Optimizer, so "
                "its steps cannot be counted; give Control the optimizer inside it whose step() "
                "is called once per training step, or have the class call super().__init__()"
            )
        inside = found[0]
    return inside


def decayed_scales(optimizers: Iterable[Optimizer], scales: Iterable[nn.Parameter]) -> int:
    """Return the number of scales with weight decay that share a group with other parameters.

    A separate group for scales is assumed to be intentional.
    """
    known = {id(scale) for scale in scales}
    count = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            mine = sum(id(parameter) in known for parameter in group["params"])
            if group.get("weight_decay") and mine < len(group["params"]):
                count += mine
    return count
