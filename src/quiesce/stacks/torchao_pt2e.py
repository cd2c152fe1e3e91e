"""torchao PT2E: graphs prepared by `prepare_qat_pt2e`, with the quantizer of any backend.

The weight of a convolution before a batch norm is rounded after it was multiplied by the scale of
the batch norm. Its codes therefore depend on the running variance too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, fx, nn
from torch.fx.node import map_arg
from torch.utils.hooks import RemovableHandle
from torchao.quantization.pt2e import (  # pyright: ignore[reportMissingImports]
    FakeQuantize,
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
)

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError, NotCalibratedError
from quiesce.parallel.processes import are_many
from quiesce.quantization.kinds import Kind
from quiesce.stacks.site import Change, Reading, Site, codes_of

_SUFFIX = ".weight"


def sites(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[Site]:
    """Yield the parameters that graphs quantize, with the names of their layers.

    Raises:
        AttachError: A fake quantizer is of another kind, disabled, or rounds something else than a
            parameter times a factor.
        NotCalibratedError: An observer has seen nothing.
    """
    for prefix, graph in model.named_modules():
        if not isinstance(graph, fx.GraphModule):
            continue
        for place, (node, target) in enumerate(_quantized_parameters(graph)):
            name = ".".join(filter(None, [prefix, target.removesuffix(_SUFFIX)]))
            if wanted(name):
                yield GraphWeight(name, graph, prefix, node, target, place)


class GraphWeight(Site):
    """One weight of a PT2E graph.

    Args:
        name: Name of the layer.
        graph: The graph module.
        prefix: Its name in the model.
        node: The node that calls the fake quantizer.
        target: The name of the parameter in the graph module.
        place: The position among the quantized parameters, in the order of their use.
    """

    why_another_scale = "the conversion has another formula for the scale"

    def __init__(
        self, name: str, graph: fx.GraphModule, prefix: str, node: fx.Node, target: str, place: int
    ) -> None:
        fake: Any = graph.get_submodule(str(node.target))
        super().__init__(name, fake)
        self._graph, self._prefix, self._node, self._target = graph, prefix, node, target
        self._place, self._fake = place, fake
        _check(name, fake)
        self.follows_weight = bool(fake.observer_enabled[0])
        effective, fold = self._effective()
        if fold is not None and not torch.allclose(effective, self.latent * fold):
            raise AttachError(
                f"{name}: the graph rounds something else than a multiple of a weight"
            )

    @property
    def latent(self) -> nn.Parameter:
        """The float weight."""
        return _attribute(self._graph, self._target)

    @property
    def grid(self) -> Grid:
        """The integers of the codes."""
        observer = self._fake.activation_post_process
        return Grid.between(int(observer.quant_min), int(observer.quant_max))

    @property
    def kind(self) -> Kind:
        """Kind of the operator that reads the weight."""
        user = next(iter(self._node.users))
        shape = self.latent.shape
        if "conv" not in str(user.target):
            return "linear" if "linear" in str(user.target) else "other"
        if "transpose" not in str(user.target) and shape[1] == 1 and shape[0] > 1:
            return "depth-wise"
        return "point-wise" if shape[2:].numel() == 1 else "full"

    def agree(self) -> None:
        """Take buffers from rank 0, as the next forward pass of DDP will."""
        if are_many():
            for buffer in [*self._fake.buffers(), *self._chain_buffers()]:
                distributed.broadcast(buffer, 0)

    @torch.no_grad()
    def read(self) -> Reading:
        """Run the fake quantizer on copies of its buffers, which it updates."""
        effective, fold = self._effective()
        fake = _shadow(self._fake)
        values = fake.forward(effective)
        scale, zero_point = _spread(fake, effective)
        codes = codes_of(values, scale, zero_point)
        return Reading(effective, codes, scale, zero_point, fold)

    def on_output(self, change: Change) -> RemovableHandle:
        """Hook the fake quantizer."""
        return self._fake.register_forward_hook(_Hook(change))

    @torch.no_grad()
    def hold(self, kept: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Take the scale of the next forward pass, and disable the observer."""
        fake = self._fake
        if kept is None:
            ahead = _shadow(fake)
            ahead.forward(self._effective()[0])
            kept = tuple(ahead.buffers())
        for buffer, value in zip(fake.buffers(), kept, strict=True):
            buffer.resize_(value.shape).copy_(value)
        fake.disable_observer()
        return kept

    @torch.no_grad()
    def before_convert(self) -> None:
        """Give the observer the range from which conversion computes the scale of training.

        Conversion of torchao 0.18 divides the range by another number than the forward pass.
        """
        fake, observer = self._fake, self._fake.activation_post_process
        low, high = observer.quant_min, observer.quant_max
        symmetric = fake.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)
        ends = (low - high) / 2 if symmetric else low - fake.zero_point
        observer.min_val.copy_((fake.scale * ends).reshape(observer.min_val.shape))
        ends = (high - low) / 2 if symmetric else high - fake.zero_point
        observer.max_val.copy_((fake.scale * ends).reshape(observer.max_val.shape))

    def converted(self, model: Any) -> Reading | None:
        """Read the weight in the result of `convert_pt2e`, at the same place of the graph.

        Raises:
            AttachError: The graph has another number of quantized weights.
        """
        graph = model.get_submodule(self._prefix) if isinstance(model, nn.Module) else None
        if not isinstance(graph, fx.GraphModule):
            raise AttachError(
                "quiesce.audit of PT2E reads the graph that convert_pt2e returned, not a "
                f"{type(model).__name__}"
            )
        found = list(_dequantized(graph))
        trained = len(list(_quantized_parameters(self._graph)))
        if len(found) != trained and trained:
            raise AttachError(
                f"{self.name}: the converted graph has {len(found)} weights of integers, the "
                f"prepared one {trained}; convert with fold_quantize=True"
            )
        codes, scale, zero_point = found[self._place]
        return Reading(self.latent.detach(), codes, scale, zero_point)

    def _effective(self) -> tuple[Tensor, Tensor | None]:
        """Return what is rounded, and the factor of the parameter in it, or None for 1."""
        latent = self.latent.detach()
        argument = self._node.args[0]
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            return latent, None
        ones = torch.ones_like(latent)
        return self._evaluate(argument, latent), self._evaluate(argument, ones)

    @torch.no_grad()
    def _evaluate(self, node: Any, weight: Tensor) -> Any:
        """Compute a node of the graph with other values of the weight."""
        known: dict[fx.Node, Any] = {}

        def value(each: Any) -> Any:
            if each not in known:
                known[each] = weight if each.target == self._target else _compute(each)
            return known[each]

        def _compute(each: fx.Node) -> Any:
            if each.op == "get_attr":
                return _attribute(self._graph, str(each.target)).detach()
            args, kwargs = map_arg((each.args, each.kwargs), value)
            return each.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]

        return value(node)

    def _chain_buffers(self) -> Iterator[Tensor]:
        left = [self._node.args[0]]
        while left:
            node = left.pop()
            if isinstance(node, fx.Node):
                left += node.all_input_nodes
                if node.op == "get_attr":
                    value = _attribute(self._graph, str(node.target))
                    if not isinstance(value, nn.Parameter):
                        yield value


class _Hook:
    """Changes the output of a fake quantizer; an instance is copied with its module."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def __call__(self, fake: Any, args: Any, out: Tensor) -> Tensor:
        return self.change(out, *_spread(fake, out))


def _quantized_parameters(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Yield the nodes that quantize a parameter, and its name, in the order of their use."""
    modules = dict(graph.named_modules())
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    found: dict[fx.Node, str] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(modules.get(node.target), FakeQuantizeBase):
            parameters = _parameters(graph, node.args[0])
            if parameters and _attribute(graph, parameters[0]).dim() > 1:  # no bias
                found[node] = parameters[0]
    yield from sorted(found.items(), key=lambda pair: min(order[u] for u in pair[0].users))


def _parameters(graph: fx.GraphModule, node: Any) -> list[str]:
    """Return the parameters of the largest rank that a node is computed from, without inputs."""
    left, names = [node], []
    while left:
        each = left.pop(0)
        if each.op == "get_attr":
            if isinstance(_attribute(graph, str(each.target)), nn.Parameter):
                names.append(str(each.target))
        elif each.op == "call_function":
            left += each.all_input_nodes
        else:
            return []  # computed from an input of the model: an activation
    return sorted(names, key=lambda name: -_attribute(graph, name).dim())


def _dequantized(graph: fx.GraphModule) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield codes, scale and zero point of the integer weights, in the order of their use."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    found = []
    for node in graph.graph.nodes:
        if "dequantize_per_" not in str(node.target) or node.args[0].op != "get_attr":
            continue
        codes = _attribute(graph, node.args[0].target)
        scale, zero_point = (
            _attribute(graph, str(each.target)) if isinstance(each, fx.Node) else torch.tensor(each)
            for each in node.args[1:3]
        )
        if "per_channel" in str(node.target):
            shape = [1] * codes.dim()
            shape[node.args[3]] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        values = codes.to(scale.dtype), scale, zero_point.to(scale.dtype)
        found.append((min(order[user] for user in node.users), values))
    yield from (values for _, values in sorted(found, key=lambda pair: pair[0]))


def _attribute(graph: nn.Module, target: str) -> Any:
    owner, _, name = target.rpartition(".")
    return getattr(graph.get_submodule(owner), name)


def _shadow(module: Any) -> Any:
    """Return a copy of a module without hooks whose buffers are clones."""
    made = copy.copy(module)
    made._buffers = {name: value.clone() for name, value in module._buffers.items()}
    made._modules = {name: _shadow(child) for name, child in module._modules.items()}
    return made


def _spread(fake: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, broadcastable to a tensor."""
    shape = [1] * like.dim()
    if fake.is_per_channel:
        shape[fake.ch_axis] = -1
    scale = fake.scale.reshape(shape)
    return scale, fake.zero_point.reshape(shape).to(scale.dtype)


def _check(name: str, fake: Any) -> None:
    if type(fake) not in (FusedMovingAvgObsFakeQuantize, FakeQuantize):
        raise AttachError(
            f"{name}: quiesce does not follow {type(fake).__name__} of PT2E, only FakeQuantize and "
            "FusedMovingAvgObsFakeQuantize"
        )
    if not bool(fake.fake_quant_enabled[0]):
        raise AttachError(
            f"{name}: its fake quantizer is disabled, so it passes float weights on; call "
            "enable_fake_quant() on it before quiesce.attach"
        )
    ends = fake.activation_post_process.min_val
    if not ends.numel() or not bool(ends.isfinite().all()):
        raise NotCalibratedError(
            f"{name}: its observer has seen no weight yet; run one forward pass before "
            "quiesce.attach, or give it example_input"
        )
