"""Additions of activations on grids, in any module whose forward adds two tensors.

The class of a prepared block becomes a subclass of its own class. Its forward runs the parent's
under a torch function mode, which sends each addition of two tensors of one shape through a module
`Addition`. So no block has to be rewritten, and torch.compile and torch.export see plain operators.
Additions are identified by the order of the calls, so a forward pass with another number of
additions than the observed one is refused.
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
    """The sum of two tensors, each rounded to a grid first.

    Args:
        left: Quantizer of the first operand; it may also be the input quantizer of a layer.
        right: Quantizer of the second operand.
    """

    def __init__(self, left: FakeQuantizer, right: FakeQuantizer) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the sum."""
        return torch.add(self.left(left), self.right(right), alpha=1)  # for `alpha` see `_Adding`


class QuantizedBlock(_Base):
    """The base that `block_class` puts before the class of a block."""

    additions: nn.ModuleList
    """In the order of calls; None where one stays in float. Empty if all do, which only hides them
    from a block around this one."""
    additions_of: str
    """Name of the block in the model."""

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        forget_scales(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[type], dict]:
        """Pickle and copy by the float class, because the subclass has no importable name."""
        return _remake, (type(self).__mro__[2],), self.__dict__.copy()


class _HidesAdditions(nn.Sequential if TYPE_CHECKING else object):
    """Makes a Sequential block skip `additions` when it runs its modules."""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter([child for name, child in self._modules.items() if name != "additions"])

    def __len__(self) -> int:
        return len(self._modules) - 1


class _Adding(TorchFunctionMode):
    """Sends additions through the given modules, in their order."""

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
        # `alpha` is 1 anyway; it tells the modes of outer blocks that this addition is done
        return func(*args, alpha=1) if addition is None else addition(*args)

    def check_number(self, block: type[nn.Module], name: str) -> None:
        """Refuse a forward in which an addition may have taken the place of another."""
        expected = len(self.additions)
        if expected and self.seen not in (0, expected):
            raise PrepareError(
                f"{name or 'the model'}: a {block.__name__} adds {self.seen} times in one forward, "
                f"and added {expected} times in the inference of prepare; let it add alike in "
                "training and inference (scale what is added by 0), or leave its additions in "
                f"float: Scheme(residual_exclude=[{name!r}])"
            )


def is_addition(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a call adds two activations of one shape; parameters are not activations."""
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
    """Return the subclass of `cls` whose additions are on grids; always the same object."""

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
    """Put the additions of a block's forward on grids, in place, in the order of their calls.

    Args:
        block: Still a float one.
        name: Of the block in the model.
        additions: None for one that stays in float; empty if all do.
    """
    block.__class__ = block_class(type(block))
    block.additions_of = name  # pyright: ignore[reportArgumentType]
    block.additions = nn.ModuleList(additions)  # pyright: ignore[reportArgumentType]


def restore_block(block: nn.Module) -> None:
    """Turn a quantized block back into a float one, in place."""
    block.__class__ = type(block).__mro__[2]
    del block.additions, block.additions_of


def _remake(cls: type[nn.Module]) -> nn.Module:
    made = block_class(cls)
    return made.__new__(made)
