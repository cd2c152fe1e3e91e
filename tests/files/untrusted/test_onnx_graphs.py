"""ONNX files that reach out of themselves."""

import time

import pytest

from quiesce.files.untrusted.onnx_graphs import refuse_unsafe

onnx = pytest.importorskip("onnx")


def model(*, tensors=(), nodes=(), functions=()):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(list(nodes), "g", [value], [value], list(tensors))
    return helper.make_model(graph, functions=list(functions))


def tensor(dims=(4,), **fields):
    return onnx.TensorProto(name="w", dims=dims, data_type=1, **fields)


def refused(made) -> str:
    with pytest.raises(ValueError, match=r"\S") as raised:
        refuse_unsafe(made.SerializeToString())
    return str(raised.value)


def test_a_graph_that_holds_its_numbers_passes() -> None:
    weights = [tensor(raw_data=b"\0" * 16), tensor((2, 2), float_data=[1, 2, 3, 4])]
    refuse_unsafe(model(tensors=weights).SerializeToString())


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret", "beside.bin"])
def test_numbers_in_other_files_are_refused(location) -> None:
    entry = onnx.StringStringEntryProto(key="location", value=location)
    told = refused(model(tensors=[tensor(data_location=1, external_data=[entry])]))
    assert "tensors in other files" in told


def test_numbers_of_a_node_in_other_files_are_refused() -> None:
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensor(data_location=1))
    assert "tensors in other files" in refused(model(nodes=[node]))


@pytest.mark.parametrize("dims", [(2**40,), (2**20, 2**20), (2**62, 2**62), (-1,)])
def test_a_tensor_can_not_claim_what_is_not_there(dims) -> None:
    assert "the file has no room for it" in refused(model(tensors=[tensor(dims)]))


def test_a_tensor_has_few_dimensions() -> None:
    """The product of 400,000 large numbers takes minutes, and fills the message."""
    many = tensor([2**63 - 1] * 400_000)
    started_s = time.perf_counter()
    told = refused(model(tensors=[many]))
    assert time.perf_counter() - started_s < 10
    assert told == "it has a tensor of more than 64 dimensions"


def test_the_message_about_a_shape_is_short() -> None:
    assert len(refused(model(tensors=[tensor([2**63 - 1] * 64)]))) < 200


def test_loops_and_functions_are_refused() -> None:
    body = model().graph
    loop = onnx.helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    assert "loops or branches" in refused(model(nodes=[loop]))
    function = onnx.helper.make_function("own", "f", ["x"], ["y"], [], [])
    assert "functions" in refused(model(functions=[function]))


@pytest.mark.parametrize("content", [b"\x3a\x7f", b"\xff" * 20, b"\x0b\x0c", b"\x3a\x02\x2a\x50"])
def test_what_is_no_protocol_buffer_is_a_value_error(content) -> None:
    with pytest.raises(ValueError, match=r"cut off|no protocol buffer"):
        refuse_unsafe(content)
