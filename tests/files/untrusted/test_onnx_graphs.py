"""ONNX files that refer to other files, or are damaged."""

from pathlib import Path

import pytest

from quiesce.files.untrusted.onnx_graphs import read_onnx

onnx = pytest.importorskip("onnx")


def written(folder: Path, *, tensors=(), nodes=()) -> Path:
    helper = onnx.helper
    shown = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    nodes = [*nodes, helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", shown[:1], shown[1:], list(tensors))
    (folder / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return folder / "a.onnx"


def tensor(**fields):
    return onnx.TensorProto(name="w", dims=(4,), data_type=1, **fields)


def test_a_graph_with_its_tensors_is_read(tmp_path) -> None:
    weights = [tensor(raw_data=b"\0" * 16)]
    model = read_onnx(written(tmp_path, tensors=weights))
    assert [each.name for each in model.graph.initializer] == ["w"]


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret", "beside.bin"])
@pytest.mark.parametrize("where", ["initializer", "node", "branch"])
def test_tensors_in_other_files_are_refused(location, where, tmp_path) -> None:
    entry = onnx.StringStringEntryProto(key="location", value=location)
    elsewhere = tensor(data_location=1, external_data=[entry])
    node = onnx.helper.make_node("Constant", [], ["c"], value=elsewhere)
    body = onnx.helper.make_graph([node], "b", [], [])
    branch = onnx.helper.make_node("If", ["x"], ["d"], then_branch=body, else_branch=body)
    parts = {"initializer": ([elsewhere], []), "node": ([], [node]), "branch": ([], [branch])}
    tensors, nodes = parts[where]
    with pytest.raises(ValueError, match="'w' is in another file"):
        read_onnx(written(tmp_path, tensors=tensors, nodes=nodes))


@pytest.mark.parametrize("dims", [(2**40,), (2**20, 2**20), (5,)])
def test_a_tensor_has_all_of_its_numbers(dims, tmp_path) -> None:
    weight = tensor(raw_data=b"\0" * 16)
    weight.dims[:] = dims
    with pytest.raises(ValueError, match="w"):
        read_onnx(written(tmp_path, tensors=[weight]))


@pytest.mark.parametrize("content", [b"", b"\x3a\x7f", b"\xff" * 20, b"\x0b\x0c", b"\x3a\x02\x2a"])
def test_a_file_of_something_else_is_a_value_error(content, tmp_path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"\S"):
        read_onnx(tmp_path / "a.onnx")
