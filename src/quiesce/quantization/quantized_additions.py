"""Quantized additions of activations, in any module whose forward adds two tensors.

The class of a prepared block is replaced by a subclass of it. The forward of the subclass runs that
of the parent under a torch function mode, which replaces each addition of two tensors of the same
shape by a call of an `Addition` module. Blocks need no rewriting, and torch.compile and
torch.export see plain operators. Additions are identified by the order of their calls, so a forward
pass with a different number of additions than in `prepare` raises an error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quiesce.errors import PrepareError
from quiesce.quantization.quantizer import FakeQuantizer, forget_scales

ADDS = (torch.Tensor.add, torch.Tensor.add_, torch.add)
"""The functions that `x + y`, `x += y` and `torch.add(x, y)` call."""

_Base = nn.Module if TYPE_CHECKING else object


class Addition(nn.Module):
    """The sum of two tensors that are quantized first.

    Args:
        left: Quantizer of the first operand. It can also be the input quantizer of a layer.
        right: Quantizer of the second operand.
    """

    def __init__(self, left: FakeQuantizer, right: FakeQuantizer) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the sum of the quantized operands."""
        return torch.add(self.left(left), self.right(right), alpha=1)  # for `alpha` see `_Adding`


class QuantizedBlock(_Base):
    """Base class that `block_class` adds before the class of a block."""

    additions: nn.ModuleList
    """One entry per addition in order of call, None for an addition that stays in float. If all
    stay in float, the list is empty and only hides the additions from an enclosing block."""
    additions_of: str
    """Name of the block in the model."""

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        forget_scales(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[type], dict]:
        """Pickle and copy via the float class, because the subclass cannot be imported by name."""
        return _remake, (type(self).__mro__[2],), self.__dict__.copy()


class _HidesAdditions(nn.Sequential if TYPE_CHECKING else object):
    """Makes a Sequential block skip `additions` when it runs its modules."""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([child for name, child in self._modules.items() if name != "additions"])

    def __len__(self) -> int:
        return len(self._modules) - 1


class _Adding(TorchFunctionMode):
    """Replaces additions by calls of the given modules, in order."""

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
        if not is_addition(func, args, kwargs):
            return func(*args, **(kwargs or {}))
        place = self.seen
        self.seen += 1
        addition = self.additions[place] if place < len(self.additions) else None
        # alpha=1 is the default; passing it makes the modes of outer blocks skip this addition
        return func(*args, alpha=1) if addition is None else addition(*args)

    def check_number(self, block: type[nn.Module], name: str) -> None:
        """Raise PrepareError if the number of additions differs from that in `prepare`."""
        expected = len(self.additions)
        if expected and self.seen not in (0, expected):
            raise PrepareError(
                f"{name or 'the model'}: a {block.__name__} adds {self.seen} times in one forward, "
                f"but {expected} times when prepare ran it in inference; let it add as often "
                "in training as in inference (scale what is added by 0), or leave its additions in "
                f"float: Scheme(residual_exclude=[{name!r}])"
            )


def is_addition(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether a call adds two activations (not parameters) of the same shape."""
    if func not in ADDS or kwargs or len(args) != 2:
        return False
    left, right = args
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return False
    if isinstance(left, nn.Parameter) or isinstance(right, nn.Parameter):
        return False
    floats = left.is_floating_point() and right.is_floating_point()
    # comparing batch sizes would fix the batch size of an exported graph
    return floats and left.dim() == right.dim() > 1 and left.shape[1:] == right.shape[1:]


@cache
def block_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of `cls` with quantized additions; the result is cached."""

    @wraps(cls.forward)  # torch.export reads the signature
    def forward(self: QuantizedBlock, *args: Any, **kwargs: Any) -> Any:
        adding = _Adding(self.additions)  # dynamo does not support `with ... as` here
        with adding:
            output = cls.forward(self, *args, **kwargs)
        adding.check_number(cls, self.additions_of)
        return output

    body = {
        "__module__": cls.__module__,
        "__doc__": f"{cls.__name__}, its additions on grids.",
        "forward": forward,
    }
    if issubclass(cls, nn.Sequential):
        body |= {name: vars(_HidesAdditions)[name] for name in ("__iter__", "__len__")}
    return type(f"Quantized{cls.__name__}", (QuantizedBlock, cls), body)


def quantize_block(block: nn.Module, name: str, additions: Sequence[Addition | None]) -> None:
    """Quantize the additions of a block in place.

    Args:
        additions: One entry per addition in order of call, None for an addition that stays in
            float. Empty if all stay in float.
    """
    block.__class__ = block_class(type(block))
    block.additions_of = name  # pyright: ignore[reportArgumentType]
    block.additions = nn.ModuleList(additions)  # pyright: ignore[reportArgumentType]


def restore_block(block: nn.Module) -> None:
    """Convert a quantized block back to a float block in place."""
    block.__class__ = type(block).__mro__[2]
    del block.additions, block.additions_of


def _remake(cls: type[nn.Module]) -> nn.Module:
    made = block_class(cls)
    return made.__new__(made)
