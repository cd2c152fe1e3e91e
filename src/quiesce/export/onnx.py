"""Export of a prepared model to an ONNX file of integers, verified before it gets its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from quiesce.errors import ExportError, MismatchError, QuiesceError
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.checks import check_path, check_runs, left_float
from quiesce.export.graph.edits import onnx_ir
from quiesce.export.graph.folded_graph import fold
from quiesce.export.graph.lowering import integer_biases, lower_input, lower_weight
from quiesce.export.graph.tracing import DOMAIN, INPUT, layer_of, reason
from quiesce.export.interface import Example
from quiesce.export.metadata import KEY, Codes, Description, Exported, Preprocessing, check_told
from quiesce.export.packing import Pack, check_pack
from quiesce.export.verification.outputs import Compare, check_compare
from quiesce.export.verification.result import Verification
from quiesce.export.verification.verify import verify_model
from quiesce.extras import require
from quiesce.files.atomic import write_beside
from quiesce.inference import Input

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCER = "quiesce"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `export_onnx` wrote."""

    path: Path
    """The file."""

    size: int
    """Bytes of the file."""

    description: Description
    """What the file says of itself."""

    verification: Verification | None
    """How it compares with the trained network; None where that was skipped."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Input,
    *,
    pack: Pack = "int8",
    opset: int | None = None,
    labels: Sequence[str] = (),
    summary: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    round_biases: bool = False,
    dynamic: Mapping[int, str] | None = None,
    compare: Compare | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> Export:
    """Write a prepared, calibrated model as an ONNX file whose weights are integers.

    Batch norms are folded into scales and biases, activations into the limits of codes; no code
    changes. Before the file gets its name it is run in ONNX Runtime on `example_input` and compared
    with the model, layer by layer (see `verify_onnx`).

    Args:
        model: Prepared; exported in inference mode, stays as it is.
        path: The file to make; nothing half-written is ever seen under this name.
        example_input: What the model takes, as for `prepare`; the batch dimension stays open in
            the file. The verification runs on it: a batch of real inputs tells most. One floating
            input is called "images" in the file, others as the forward calls them; one output is
            called "logits", others as the mapping or dataclass calls them, or "output.0".
        pack: Container of weight codes: int8; int4 or int2 for as many codes a byte as their bits
            allow, in a float convolution (runtimes have no integer kernels for them).
        opset: Version of the ONNX operators; None takes 21, or what `pack` needs.
        labels: Name of each class, for `quiesce predict`.
        summary: Numbers about the network that go along, ready for JSON.
        preprocessing: How pictures become inputs. Where it says `folded`, the file takes uint8
            images; `example_input` stays what the model itself takes.
        round_biases: Move biases to whole numbers that integer convolutions can add, see
            `quiesce.export.biases.rounded_biases`, where they can not add the trained ones: most
            layers with more than 5 bits of activations. Verified layer by layer against a copy of
            the model with these biases, and whole against the model. Only with `pack` int8.
        dynamic: Dimensions of the inputs that stay open beside the batch, by number: {2: "height",
            3: "width"} of images, {1: "tokens"} of texts.
        compare: How the outputs of the whole file are compared, see `verify_onnx`.
        verify: Compare before writing.
        overwrite: Replace a file that exists.

    Returns:
        The file, its description and its verification.

    Raises:
        ExportError: The file exists, or model, opset and container do not go together.
        MismatchError: The file would not compute what the model computes; nothing is written.
        NotCalibratedError: A quantizer has no scale yet.
        NothingToDoError: The model is not prepared, or a layer is on no path to the output.
        MissingExtraError: onnx, onnxscript or, to verify, onnxruntime is not installed.
        TypeError, ValueError: An argument is not as said above.
    """
    path = check_path(path, overwrite=overwrite)
    check_told(labels, summary or {})
    opset = check_pack(pack, opset)
    if round_biases and pack != "int8":
        raise ExportError(
            f"rounded biases are for integer convolutions, and {pack} weights have none; "
            "give --round-biases or --pack, not both (round_biases and pack in a program)"
        )
    check_compare(compare)
    example = check_runs(model, example_input)
    exported = with_rounded_biases(model, example) if round_biases else model
    proto, description = build_model(
        exported,
        example,
        pack=pack,
        opset=opset,
        labels=labels,
        summary=summary,
        preprocessing=preprocessing,
        rounded_biases=round_biases,
        dynamic=dynamic,
    )
    verification = None
    if verify:
        given = [(example, None)]
        verification = verify_model(
            model, proto, given, where=path.name, exported=exported, compare=compare
        )
        if not verification.passed:
            raise MismatchError(f"{path} was not written: {verification.verdict}")
    content = proto.SerializeToString()
    write_beside(path, lambda beside: beside.write_bytes(content))
    return Export(path=path, size=len(content), description=description, verification=verification)


def build_model(
    model: nn.Module,
    example: Example,
    *,
    pack: Pack,
    opset: int,
    labels: Sequence[str] = (),
    summary: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    rounded_biases: bool = False,
    dynamic: Mapping[int, str] | None = None,
) -> tuple[Any, Description]:
    """Return what `export_onnx` writes, as a checked onnx.ModelProto, and its description.

    Args as there, but for `rounded_biases`: whether `model` is a copy `with_rounded_biases`.
    """
    folded = fold(model, example, opset, preprocessing, dynamic)
    graph, sites, inputs = folded.traced.graph, folded.sites, folded.inputs
    biases = [integer_biases(site, inputs, pack) for site in sites]
    for quantized in inputs.values():
        lower_input(graph, quantized)
    exported = []
    for site, integers in zip(sites, biases, strict=True):
        weight = lower_weight(graph, site, pack, integers)
        grid = site.layer.input
        exported.append(
            Exported(
                name=site.name,
                layer=site.layer.name,
                bits=site.layer.bits,
                weight=weight,
                turned=site.kind == "linear",
                integer=integers is not None,
                input_bits=None if grid is None else grid.bits,
            )
        )
    description = Description(
        layers=tuple(exported),
        inputs=tuple(Codes(name=each.name, place=each.place) for each in inputs.values()),
        left_float=tuple(left_float(model)),
        labels=tuple(labels),
        summary=summary or {},
        preprocessing=preprocessing,
        rounded_biases=rounded_biases,
    )
    try:
        return _finished(folded.traced, folded.outputs, description), description
    except QuiesceError:
        raise
    except Exception as error:  # of onnx_ir, of the checker: what they raise is open
        name = type(model).__name__
        raise ExportError(f"{name} can not be written as ONNX: {reason(error)}") from error


def _finished(model: "ir.Model", outputs: Sequence[str], description: Description) -> Any:
    """The model without leftovers and traces of this machine, checked, as a ModelProto."""
    ir = onnx_ir()
    onnx = require("onnx", "export to ONNX", "onnx")
    common = ir.passes.common
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    common.ClearMetadataAndDocStringPass()(model)
    left = [node for node in model.graph if node.domain == DOMAIN]
    if left:
        kind = "input" if left[0].op_type == INPUT else "weight"
        raise ExportError(f"{layer_of(left[0])}: its {kind} quantizer could not be written as ONNX")
    model.opset_imports.pop(DOMAIN, None)
    model.metadata_props.clear()
    model.metadata_props[KEY] = description.to_json()
    model.producer_name, model.producer_version = PRODUCER, None
    model.graph.name = PRODUCER
    for output, name in zip(model.graph.outputs, outputs, strict=True):
        output.name = name
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # shapes between operators, which runtimes infer
    onnx.checker.check_model(proto, full_check=True)
    return proto
