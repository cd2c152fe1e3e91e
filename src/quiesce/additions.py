"""Residual additions on grids, made from any module whose forward adds two tensors.

A prepared block keeps being what it was: its class becomes a subclass of its own class, whose
forward runs the parent's under a torch function mode that sends each addition of two tensors of one
shape through a module `Addition`. So no block has to be rewritten, and torch.compile and
torch.export see plain operators.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quiesce.quantizer import FakeQuantizer

ADDS = (torch.Tensor.add, torch.Tensor.add_, torch.add)
"""What `x + y`, `x += y` and `torch.add(x, y)` call."""

_Base = nn.Module if TYPE_CHECKING else object


class Addition(nn.Module):
    """The sum of two tensors, each rounded to a grid first.

    Args:
        left: Quantizer of the first operand; it may be a layer's input quantizer too.
        right: Of the second.
    """

    def __init__(self, left: FakeQuantizer, right: FakeQuantizer) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum, of the operands' shape."""
        # `alpha` is 1 anyway; given, it tells the modes of blocks around this one that it is done
        return torch.add(self.left(left), self.right(right), alpha=1)


class QuantizedBlock(_Base):
    """The part that `block_class` puts before a block's own class."""

    additions: nn.ModuleList

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[type], dict]:
        """Pickle and copy by the float class: the class made here has no importable name."""
        return _remake, (type(self).__mro__[2],), self.__dict__.copy()


class _Adding(TorchFunctionMode):
    """Sends the first additions that it sees through the modules given, in their order."""

    def __init__(self, additions: nn.ModuleList) -> None:
        super().__init__()
        self.additions = additions
        self.seen = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if is_addition(func, args, kwargs) and self.seen < len(self.additions):
            self.seen += 1
            return self.additions[self.seen - 1](*args)
        return func(*args, **(kwargs or {}))


def is_addition(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a call adds two activations of one shape; a parameter is none."""
    if func not in ADDS or kwargs or len(args) != 2:
        return False
    left, right = args
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return False
    if isinstance(left, nn.Parameter) or isinstance(right, nn.Parameter):
        return False
    floats = left.is_floating_point() and right.is_floating_point()
    # the batch is left out: comparing it would tie an exported graph to one size
    return floats and left.dim() == right.dim() > 1 and left.shape[1:] == right.shape[1:]


@cache
def block_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `cls` whose additions are on grids; the same object each time."""

    @wraps(cls.forward)  # torch.export reads the signature
    def forward(self: QuantizedBlock, *args: Any, **kwargs: Any) -> Any:
        with _Adding(self.additions):
            return cls.forward(self, *args, **kwargs)

    body = {
        "__module__": cls.__module__,
        "__doc__": f"{cls.__name__}, its additions on grids.",
        "forward": forward,
    }
    return type(f"Quantized{cls.__name__}", (QuantizedBlock, cls), body)


def quantize_block(block: nn.Module, additions: Sequence[Addition]) -> None:
    """Put the additions of a block's forward on grids, in place, in the order of their calls."""
    block.__class__ = block_class(type(block))
    block.additions = nn.ModuleList(additions)


def restore_block(block: nn.Module) -> None:
    """Turn a quantized block back into what it was, in place."""
    block.__class__ = type(block).__mro__[2]
    del block.additions


def _remake(cls: type[nn.Module]) -> nn.Module:
    made = block_class(cls)
    return made.__new__(made)
