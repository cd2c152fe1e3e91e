"""ONNX files looked through before a runtime takes them: one graph that holds all its numbers.

Read off the wire format of protocol buffers, because whoever runs a file has no onnx package. Field
numbers are those of onnx.proto.
"""

import math
from collections.abc import Iterator
from itertools import islice

LARGEST_GRAPH = 2**31 - 1
"""Bytes of an ONNX file: more no protocol buffer can have."""

MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_ATTRIBUTE = 5
ATTRIBUTE_TENSORS, ATTRIBUTE_OTHERS = (5, 10), (6, 11, 22, 23)  # others: graphs, sparse tensors
TENSOR_DIMS, TENSOR_ELSEWHERE = 1, (13, 14)

MOST_DIMS = 64
"""Of a tensor; an export has four. The product of very many would take minutes."""

CODES_PER_BYTE = 4
"""Of the narrowest type, int2."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def refuse_unsafe(content: bytes) -> None:
    """Refuse an ONNX file that reads other files, loops, or claims numbers that it does not hold.

    Raises:
        ValueError: It does, or is no protocol buffer.
    """
    for number, graph in _messages(memoryview(content)):
        if number == MODEL_FUNCTIONS:
            raise ValueError("it has functions, which no export has")
        if number == MODEL_GRAPH:
            for tensor in _tensors(graph):
                _look_at(tensor, len(content))


def _tensors(graph: memoryview) -> Iterator[memoryview]:
    for number, part in _messages(graph):
        if number == GRAPH_SPARSE:
            raise ValueError("it has sparse tensors, which no export has")
        if number == GRAPH_INITIALIZER:
            yield part
        elif number == GRAPH_NODE:
            yield from _tensors_of_node(part)


def _tensors_of_node(node: memoryview) -> Iterator[memoryview]:
    for number, attribute in _messages(node):
        if number != NODE_ATTRIBUTE:
            continue
        for inner, value in _messages(attribute):
            if inner in ATTRIBUTE_OTHERS:
                raise ValueError("it has loops or branches, which no export has")
            if inner in ATTRIBUTE_TENSORS:
                yield value


def _look_at(tensor: memoryview, size: int) -> None:
    dims = []
    for number, _, value in _fields(tensor):
        if number in TENSOR_ELSEWHERE and value:
            raise ValueError("it has tensors in other files, which no export has")
        if number == TENSOR_DIMS:
            new = [value] if isinstance(value, int) else _varints(value)
            dims += islice(new, MOST_DIMS + 1)
            if len(dims) > MOST_DIMS:
                raise ValueError(f"it has a tensor of more than {MOST_DIMS} dimensions")
    if math.prod(dims) > CODES_PER_BYTE * size:
        raise ValueError(
            f"a tensor claims the shape {tuple(dims)!s:.60}, and the file has no room for it"
        )


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields that are messages, bytes or text."""
    for number, kind, value in _fields(message):
        if kind == BYTES and not isinstance(value, int):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, kind and value of every field; the value of a fixed one is not needed, and 0."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError("it is no protocol buffer")
        if at + length > len(message):
            raise ValueError("it is cut off")
        yield number, kind, message[at : at + length] if kind == BYTES else 0
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is no protocol buffer")
