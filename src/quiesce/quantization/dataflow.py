"""Data flow of a float model: first and last layers, and the readers of every tensor.

One forward pass is traced. Each tensor is labelled with the nearest layers whose outputs it is
computed from. Detached tensors and integer tensors get no such label, because no gradient reaches a
layer through them. A layer that is read only through such tensors is an output of the network.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from quiesce.inference import Input, call, inference, named_tensors
from quiesce.parallel.wrappers import named_modules
from quiesce.quantization.quantized_additions import is_addition
from quiesce.quantization.quantized_layers import LAYERS


class Reader(NamedTuple):
    """A layer or addition that reads a tensor."""

    owner: str
    """Name of the layer, or of the block that adds."""
    place: int | None = None
    """Index of the addition within its block, or None for a layer."""
    side: str | None = None
    """"left" or "right", or None for a layer."""


@dataclass(kw_only=True)
class Dataflow:
    """The readers and additions of a forward pass."""

    called: dict[str, None] = field(default_factory=dict)
    """Called layers, in order of their first call (a dict used as an ordered set)."""

    first: set[str] = field(default_factory=set)
    """Layers that read an input of the model with no other layer in between."""

    last: set[str] = field(default_factory=set)
    """Layers whose output no other layer reads, such as all heads of a detector."""

    read_past: set[str] = field(default_factory=set)
    """Layers whose weight another module multiplies by, without calling the layer."""

    readers: list[list[Reader]] = field(default_factory=list)
    """For each tensor that a layer or an addition reads, all its readers in order of call."""

    additions: dict[str, list[bool]] = field(default_factory=dict)
    """Blocks that add, by name, with one flag per addition in order of call. The flag is True if
    the addition adds activations: both operands depend on the input, at least one of them through a
    layer, and a layer reads the sum. It is False for arithmetic on boxes, shapes and positions, and
    for additions inside a layer."""


def run(model: nn.Module, example_input: Input) -> Any:
    """Run a model in inference mode, without gradients, such that every layer is called.

    Compiled parts run in eager mode. torch's fused attention is disabled, because it reads weights
    without calling their layers.

    Returns:
        The output of the model.
    """
    with inference(model), torch.no_grad(), _without_shortcuts():
        return call(model, example_input)


def watch(model: nn.Module, example_input: Input, chosen: Mapping[str, nn.Module]) -> Dataflow:
    """Run a float model once and record which layers are called and what they read.

    An addition belongs to the innermost module whose forward computes it. An addition inside a
    convolution or linear layer belongs to the module around the layer, and the readers of its
    operands are not recorded.

    Args:
        chosen: Layers to quantize, by name. Only these can be first or last.
    """
    watcher = _Watcher(chosen, example_input)
    with watcher.hooked(model), watcher:
        run(model, example_input)
    return watcher.found()


@contextmanager
def _without_shortcuts() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Sum(NamedTuple):
    """Label of tensors computed from an addition."""

    owner: str
    place: int


class _Input:
    """Label of tensors computed from the input of the model."""


_Label = str | _Sum | type[_Input]  # a string is the name of a layer

_IN_PLACE = re.compile(r"__setitem__$|__i\w+__$|.*[^_]_$")
"""Names of functions that change their first argument, such as add_."""
_DETACHES = {"detach", "detach_"}
_DATA = Tensor.data.__get__  # pyright: ignore[reportAttributeAccessIssue]
_PRODUCTS = {
    *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("multi_head_attention_forward", "tensordot"),
}


@dataclass(eq=False)
class _Call:
    """One call of a module."""

    module: nn.Module
    name: str
    in_layer: bool
    """Whether the module is a layer or is inside one."""
    labels: set[_Label]
    """Labels of the arguments."""
    count: int = 0
    """Number of additions so far."""


class _Watcher(TorchFunctionMode):
    def __init__(self, chosen: Mapping[str, nn.Module], example_input: Any) -> None:
        super().__init__()
        self._chosen = chosen
        self._weights = {
            id(layer._parameters.get("weight")): name for name, layer in chosen.items()
        }
        self._labels: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._calls: list[_Call] = []
        self._alive: list[Tensor] = []  # ids of freed tensors are reused
        self._readers: dict[tuple[int, int], list[Reader]] = {}
        self._sums: dict[str, dict[int, bool]] = {}
        self._summed: set[_Label] = set()  # sums that a layer reads
        self._above: dict[str, set[_Label]] = {}  # labels of layer inputs, by layer
        self._feeds: set[_Label] = set()  # layers that another layer reads
        self._read_past: set[str] = set()
        for tensor in _tensors(example_input):
            self._labels[tensor] = {_Input}

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in named_modules(model):
            enter, leave = self._enter(name), self._leave
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self) -> Dataflow:
        names = list(self._above)
        nearest = {
            name: {each for each in labels if isinstance(each, str)} - {name}
            for name, labels in self._above.items()
        }
        first = {name for name in names if not nearest[name] and _Input in self._above[name]}
        return Dataflow(
            called=dict.fromkeys(names),
            first=first or {name for name in names if not nearest[name]} or set(names[:1]),
            last={name for name in names if name not in self._feeds} or set(names[-1:]),
            read_past=self._read_past,
            readers=list(self._readers.values()),
            additions={
                owner: [found[i] and _Sum(owner, i) in self._summed for i in range(len(found))]
                for owner, found in self._sums.items()
            },
        )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        read = _tensors([args, kwargs])
        labels = self._labels_in(read)
        if self._calls and is_addition(func, args, kwargs):
            labels = labels | self._added(args)
        if name in _PRODUCTS:
            self._check_owner(read)
        output = func(*args, **kwargs)
        if name in _DETACHES or func == _DATA:
            labels = labels & {_Input}
        if labels:
            for tensor in _tensors(output):
                self._label(tensor, labels)
            if _IN_PLACE.match(name) and read:
                for changed in (read[0], read[0]._base):
                    if changed is not None:
                        self._label(changed, labels)
        return output

    def _label(self, tensor: Tensor, labels: set[_Label]) -> None:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            labels = labels & {_Input}
        self._labels[tensor] = self._labels_in(tensor) | labels

    def _labels_in(self, value: Any) -> set[_Label]:
        found: set[_Label] = set()
        for tensor in _tensors(value):
            found |= self._labels.get(tensor) or set()
        return found

    def _added(self, operands: Sequence[Any]) -> set[_Label]:
        """Record an addition and return the label of its sum."""
        call = next((each for each in reversed(self._calls) if not each.in_layer), None)
        if call is None:  # the model is a layer
            return set()
        owner, place, in_layer = call.name, call.count, self._calls[-1].in_layer
        call.count += 1
        left, right = (self._labels_in(each) for each in operands)
        through_layer = any(isinstance(label, str) for label in left | right)
        sums = self._sums.setdefault(owner, {})
        fits = bool(left and right and through_layer and not in_layer)
        sums[place] = sums.get(place, False) or fits
        if not in_layer:
            for side, operand in zip(("left", "right"), operands, strict=True):
                self._note(Reader(owner, place, side), operand)
        return {_Sum(owner, place)}

    def _check_owner(self, read: Sequence[Tensor]) -> None:
        for tensor in read:
            name = self._weights.get(id(tensor))
            module = self._calls[-1].module if self._calls else None
            if name is not None and not _owns(module, tensor):
                self._read_past.add(name)

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            labels = self._labels_in([args, kwargs])
            is_layer = isinstance(module, LAYERS)
            if is_layer and args and isinstance(args[0], Tensor):
                self._note(Reader(name), args[0])
            if is_layer:
                self._summed |= labels
            if name in self._chosen:
                self._above[name] = self._above.get(name, set()) | labels
                self._feeds |= labels - {name}
            within = is_layer or bool(self._calls and self._calls[-1].in_layer)
            self._calls.append(_Call(module, name, within, labels))

        return enter

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = self._calls.pop()
        for tensor in _tensors(output):
            if call.name in self._chosen:
                self._labels[tensor] = {call.name}
            elif isinstance(module, torch.jit.ScriptModule):  # not seen by __torch_function__
                self._label(tensor, call.labels)

    def _note(self, reader: Reader, tensor: Tensor) -> None:
        self._alive.append(tensor)
        # the version distinguishes values of a tensor that is changed in place
        found = self._readers.setdefault((id(tensor), tensor._version), [])
        if reader not in found:
            found.append(reader)


def _owns(module: nn.Module | None, tensor: Tensor) -> bool:
    return module is not None and any(each is tensor for each in module._parameters.values())


def _tensors(value: Any) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(value)]
