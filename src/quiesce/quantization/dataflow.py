"""Which layers and additions of a forward read one and the same tensor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quiesce.inference import Input, run
from quiesce.quantization.quantized_additions import is_addition
from quiesce.quantization.quantized_layers import LAYERS


class Reader(NamedTuple):
    """One place that reads a tensor."""

    owner: str
    """Name of the layer, or of the block that adds."""

    place: int | None = None
    """Which of the block's additions, or None for a layer."""

    side: str | None = None
    """left or right, or None for a layer."""


@dataclass(kw_only=True)
class Dataflow:
    """What a forward did."""

    readers: list[list[Reader]] = field(default_factory=list)
    """For each tensor that a layer or an addition reads, all that read it, in order of call."""

    additions: dict[str, int] = field(default_factory=dict)
    """Blocks that add, by name, and how many additions a call of them makes, those inside layers of
    theirs, which have no readers, included."""


def watch(model: nn.Module, example_input: Input) -> Dataflow:
    """Run a float model once and note who reads what.

    An addition belongs to the innermost module whose forward makes it; one inside a convolution or
    linear layer to the module around the layer, and nothing is noted of who reads its operands.
    """
    watcher = _Watcher()
    with watcher.hooked(model), watcher:
        run(model, example_input)
    return Dataflow(readers=list(watcher.readers.values()), additions=watcher.additions)


@dataclass
class _Call:
    """One call of a module that is neither a layer nor inside one."""

    name: str
    count: int = 0
    """Additions so far."""


class _Watcher(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[tuple[int, int], list[Reader]] = {}
        self.additions: dict[str, int] = {}
        self._inside: list[tuple[_Call, bool]] = []  # and whether inside a layer of it
        self._alive: list[Tensor] = []  # an id is taken again when its tensor is gone

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
        # an operation in place makes another value of the same tensor: its version tells
        found = self.readers.setdefault((id(tensor), tensor._version), [])
        if reader not in found:
            found.append(reader)
