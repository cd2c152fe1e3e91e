"""Finds which layers and additions of a forward pass read the same tensor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quiesce.inference import inference
from quiesce.quantization.quantized_additions import is_addition
from quiesce.quantization.quantized_layers import LAYERS


class Reader(NamedTuple):
    """A layer or addition that reads a tensor."""

    owner: str
    """Name of the layer, or of the block that adds."""
    place: int | None = None
    """Index of the addition in the block, or None for a layer."""
    side: str | None = None
    """"left" or "right", or None for a layer."""


@dataclass(kw_only=True)
class Dataflow:
    """The readers and additions of a forward pass."""

    readers: list[list[Reader]] = field(default_factory=list)
    """For each tensor, all layers and additions that read it, in order of call."""
    additions: dict[str, int] = field(default_factory=dict)
    """Names of blocks that add, to the number of additions in a call; those inside layers, which
    have no readers, count too."""


def run(model: nn.Module, example_input: Any) -> Any:
    """Return the output of a model in inference mode, without gradients.

    Args:
        model: The model; its modes are restored.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments.
    """
    with inference(model), torch.no_grad():
        if isinstance(example_input, Mapping):
            return model(**example_input)
        return model(*example_input) if isinstance(example_input, tuple) else model(example_input)


def watch(model: nn.Module, example_input: Any) -> Dataflow:
    """Run a float model once, and note which layers and additions read which tensors.

    An addition belongs to the innermost module whose forward makes it. One inside a convolution or
    linear layer belongs to the module around the layer, and its readers are not noted.
    """
    watcher = _Watcher()
    with watcher.hooked(model), watcher:
        run(model, example_input)
    return Dataflow(readers=list(watcher.readers.values()), additions=watcher.additions)


@dataclass
class _Call:
    """A call of a module that is neither a layer nor inside one."""

    name: str
    count: int = 0
    """Additions so far."""


class _Watcher(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[tuple[int, int], list[Reader]] = {}
        self.additions: dict[str, int] = {}
        self._inside: list[tuple[_Call, bool]] = []  # and whether inside a layer
        self._alive: list[Tensor] = []  # keeps ids unique

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._inside and is_addition(func, args, kwargs):
            call, in_layer = self._inside[-1]
            place, call.count = call.count, call.count + 1
            self.additions[call.name] = max(self.additions.get(call.name, 0), call.count)
            for side, operand in zip(("left", "right"), args, strict=True):
                if not in_layer:
                    self._note(Reader(call.name, place, side), operand)
        return func(*args, **(kwargs or {}))

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            is_layer = isinstance(module, LAYERS)
            if is_layer and args and isinstance(args[0], Tensor):
                self._note(Reader(name), args[0])
            around, in_layer = self._inside[-1] if self._inside else (_Call(""), False)
            within = is_layer or in_layer
            self._inside.append((around if within else _Call(name), within))

        return enter

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    def _note(self, reader: Reader, tensor: Tensor) -> None:
        self._alive.append(tensor)
        # an operation in place changes the version of the tensor
        found = self.readers.setdefault((id(tensor), tensor._version), [])
        if reader not in found:
            found.append(reader)
