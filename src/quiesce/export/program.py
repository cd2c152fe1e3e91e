"""Exports to the .pt2 files of torch.export, which torch runs without quiesce.

Weights are int8 codes and a scale; inputs are rounded by plain operators. The arithmetic and its
order are those of training, so the verification requires equal codes and equal logits, bit for bit.
The file contains no data about the machine, and no image.
"""

import copy
import inspect
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.arithmetic.fake_quantize import positive
from quiesce.errors import MismatchError, QuiesceError
from quiesce.export.biases.layer_integers import check_all_called, input_places, read_integers
from quiesce.export.checks import check_path, check_runs, left_float
from quiesce.export.graph.tracing import not_expressible, quiet, traceable
from quiesce.export.interface import Example, open_dimensions, output_tensors
from quiesce.files.atomic import write_beside
from quiesce.inference import Input, inference, map_leaves, map_tensors
from quiesce.parallel.wrappers import without_wrappers
from quiesce.quantization.prepare import quantized_weights
from quiesce.quantization.quantized_layers import QuantizedLayer
from quiesce.quantization.quantized_weight import QuantizedWeight
from quiesce.quantization.quantizer import FakeQuantizer


@dataclass(frozen=True, kw_only=True)
class Program:
    """The file that `export_program` wrote."""

    path: Path
    """The file."""
    size: int
    """Size of the file in bytes."""
    left_float: tuple[str, ...]
    """Names of the modules whose weights are float."""


def export_program(
    model: nn.Module,
    path: str | Path,
    example_input: Input,
    *,
    dynamic: Mapping[int, str] | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> Program:
    """Write a prepared, calibrated model as a .pt2 file that `torch.export.load` reads.

    Args:
        model: A prepared model, or an AveragedModel of one; exported in inference mode on the CPU,
            and not changed.
        path: The file to write.
        example_input: An example of the model's input, on which file and model are compared. The
            file takes the same arguments as the model, with a dynamic batch size.
        dynamic: Further dynamic dimensions of the inputs, by number: {2: "height", 3: "width"} of
            images, {1: "tokens"} of texts.
        verify: Compare before writing.
        overwrite: Replace an existing file.

    Returns:
        The file, and the modules in float.

    Raises:
        ExportError: The file exists or its folder does not; torch.export cannot express the model;
            it returns something other than tensors; or its parameters are not float32.
        MismatchError: The outputs of the file would differ from those of the model; nothing is
            written.
        NotCalibratedError: A quantizer has no scale yet.
        NothingToDoError: The model is not prepared, or a layer is on no path to the output.
        TypeError, ValueError: `example_input` is wrong.
    """
    path, model = check_path(path, overwrite=overwrite), without_wrappers(model)
    example = check_runs(model, example_input)
    content = _saved(model, example, dynamic or {})
    if verify and (wrong := _mismatch(model, example, content)):
        raise MismatchError(f"{path} was not written: {wrong}")
    write_beside(path, lambda beside: beside.write_bytes(content))
    return Program(path=path, size=len(content), left_float=tuple(left_float(model)))


class PlainInput(nn.Module):
    """An input quantizer in plain operators."""

    scale: Tensor
    offset: Tensor | None

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        offset = quantizer.offset
        self.low, self.high = (int(end) for end in quantizer.limits.tolist())
        self.register_buffer("scale", quantizer.step_size.clone())
        self.register_buffer("offset", None if offset is None else offset.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the grid nearest to `x`."""
        shifted = x if self.offset is None else x - self.offset
        code = torch.round(shifted / self.scale).clamp(self.low, self.high)
        return self.scale * code if self.offset is None else self.scale * code + self.offset


class PlainWeight(nn.Module):
    """A weight as int8 codes and their scale."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self.group_size = weight.group_size
        scale = weight.scale if weight.group_size is None else positive(weight.raw_scale)
        self.register_buffer("codes", weight.codes().cpu().contiguous())
        self.register_buffer("scale", scale.detach().cpu().clone())

    def forward(self, _: Tensor) -> Tensor:
        """Return the values of the weight."""
        scale = self.scale
        if self.group_size is not None:
            scale = scale.repeat_interleave(self.group_size, -1)
        return scale * self.codes.to(scale.dtype)


def _plain(model: nn.Module) -> nn.Module:
    weights = {id(view.latent): PlainWeight(view) for view in quantized_weights(model)}
    given = {
        name: weights[id(module.latent)]
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
    }
    plain = copy.deepcopy(model).cpu().eval()
    for place in input_places(plain):
        place.owner.add_module(place.attribute, PlainInput(place.quantizer))
    for name, module in list(plain.named_modules()):
        if isinstance(module, QuantizedLayer):
            module.add_module("weight_quantizer", given[name])
            module._parameters["weight"] = nn.Parameter(torch.empty(0))  # not in the file
    return plain


def _saved(model: nn.Module, example: Example, dynamic: Mapping[int, str]) -> bytes:
    # the example is stored in the file
    example = traceable(example).changed(lambda _, tensor: torch.zeros_like(tensor))
    # torch.export derives constraints between sizes, such as a height that is a multiple of 2
    dims = iter(open_dimensions(example, dynamic, lambda _: torch.export.Dim.DYNAMIC))
    args, kwargs = map_leaves(
        tuple(example.arguments), lambda leaf: next(dims) if isinstance(leaf, Tensor) else None
    )
    plain = _plain(model)
    plain.register_forward_hook(lambda *call: map_tensors(call[-1], lambda tensor: tensor))
    file = io.BytesIO()
    try:
        with quiet():
            program = torch.export.export(
                plain,
                example.arguments.args,
                example.arguments.kwargs,
                dynamic_shapes=_by_argument(plain, args, kwargs),
            )
            check_all_called(read_integers(model), _called(program, plain))
            for node in _nodes(program):
                node.meta.pop("stack_trace", None)  # it contains paths of source files
            torch.export.save(program, file)
    except QuiesceError:
        raise
    except Exception as error:  # torch.export raises many kinds
        raise not_expressible(type(model).__name__, error) from None
    return file.getvalue()


def _by_argument(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the dimensions by the names of the forward's arguments, as torch.export expects."""
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _called(program: torch.export.ExportedProgram, plain: nn.Module) -> set[str]:
    """Return the names of the layers whose codes the output depends on; removes dead code."""
    graph = program.graph_module.graph
    graph.eliminate_dead_code()
    buffers = program.graph_signature.inputs_to_buffers
    # remaining nodes without users check types
    read = {node.name for node in graph.nodes if any(user.users for user in node.users)}
    used = {id(plain.get_buffer(name)) for node, name in buffers.items() if node in read}
    return {
        name
        for name, module in plain.named_modules()
        if isinstance(module, QuantizedLayer)
        and id(module.get_buffer("weight_quantizer.codes")) in used  # layers may share codes
    }


def _nodes(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Node]:
    for graph in program.graph_module.modules():  # branches have their own graphs
        if isinstance(graph, torch.fx.GraphModule):
            yield from graph.graph.nodes


@torch.no_grad()
def _mismatch(model: nn.Module, example: Example, content: bytes) -> str | None:
    """Return a difference between the model and the file in one line, or None."""
    program = torch.export.load(io.BytesIO(content))
    state = {**program.state_dict, **program.constants}
    for name, layer in read_integers(model).items():
        # the model itself may be a layer, without a name
        codes = state.get(f"{layer.shared_with}.weight_quantizer.codes".lstrip("."))
        if codes is None or not torch.equal(codes, torch.from_numpy(layer.codes)):
            called = name or type(model).__name__
            return f"{called}: its weight codes in the file are not the trained ones"
    device = next(model.parameters()).device
    with inference(model):
        expected = output_tensors(example.to(device).run(model))
    made = output_tensors(example.to(torch.device("cpu")).run(program.module()))
    for name, ours in expected.items():
        if not torch.equal(made[name], ours.cpu()):
            largest = float((made[name] - ours.cpu()).abs().max())
            return f"its {name} differ from the model's, by at most {largest:.3g}"
    return None
