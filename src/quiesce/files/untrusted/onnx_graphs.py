"""Reads ONNX files that contain all of their tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quiesce.errors import first_line
from quiesce.extras import require
from quiesce.files.untrusted.limits import read_bytes

LARGEST_GRAPH = 2**31 - 1
"""Bytes of an ONNX file; a protocol buffer cannot be larger."""


def read_onnx(path: Path) -> Any:
    """Return the onnx.ModelProto in a file; raise a ValueError if it is not valid or complete."""
    onnx = require("onnx", "reading an ONNX file", "onnx")
    content = read_bytes(path, LARGEST_GRAPH)
    try:
        model = onnx.load_model_from_string(content)
        for part in _messages(model):
            if isinstance(part, onnx.TensorProto) and part.data_location == part.EXTERNAL:
                raise ValueError(f"its tensor {part.name!r} is in another file")
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf and the checker raise many kinds
        raise ValueError(first_line(error)) from error
    return model


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message of a protocol buffer and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "__len__") else [value]:
                yield from _messages(each)
