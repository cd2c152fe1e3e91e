"""Changes files at random: the bytes of any file, and the values in files of each kind."""

import io
import json
import math
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch
import yaml

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 10**400, 1e308, -1e308, math.nan, math.inf, 5e-324),
    *("", "..", "../../outside", "/outside", "~nobody/x", "a\0b", "[/x]", "\x1b[31m", "x" * 10_000),
    *([], {}, [[]], {"": None}, [1] * 1000, [None], ["a", 1], "1e400", "2001-13-45"),
    "!!python/object/apply:os.system ['touch outside']",
    {"class_path": "os.system", "init_args": {"command": "touch outside"}},
)
"""Values that no field expects."""


def bytes_of(random: Random, content: bytes) -> bytes:
    """Change some bytes: overwrite, take out, put in, repeat, cut off."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        at = random.randrange(len(changed) + 1)
        some = random.choice((1, 1, 2, 4, 8, 64))
        how = random.randrange(6)
        if how == 0:
            changed[at : at + some] = random.randbytes(some)
        elif how == 1:
            del changed[at : at + some]
        elif how == 2:
            changed[at:at] = random.choice((b"\0", b"\xff", b"-", b"9", b"[", b'"')) * some
        elif how == 3:
            changed[at:at] = changed[at : at + some]
        elif how == 4:
            changed[at : at + some] = random.choice((b"\0", b"\xff", b"\x7f")) * some
        else:
            del changed[at:]
    return bytes(changed)


def tree_of(random: Random, tree: Any) -> Any:
    """Put an odd value somewhere into a tree, take a field out, or name it otherwise."""
    holders = list(_holders(tree))
    if not holders:
        return random.choice(ODD)
    holder = random.choice(holders)
    key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    how = random.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[random.choice((f"{key}x", "class_path", "__class__", "../x"))] = holder.pop(key)
    elif how == 2:
        holder[key] = _copied(tree, 3)
    else:
        holder[key] = random.choice(ODD)
    return tree


def _holders(tree: Any) -> Any:
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if inside:
        yield tree
    for each in inside:
        yield from _holders(each)


def _copied(tree: Any, depth: int) -> Any:
    """A tree that may hold itself, so many times."""
    if depth == 0 or not isinstance(tree, dict | list):
        return None if isinstance(tree, dict | list) else tree
    if isinstance(tree, dict):
        return {key: _copied(value, depth - 1) for key, value in tree.items()}
    return [_copied(value, depth - 1) for value in tree]


def json_of(random: Random, content: bytes) -> bytes:
    """Change a value of a JSON file, or its bytes."""
    if random.random() < 0.3:
        return bytes_of(random, content)
    return json.dumps(tree_of(random, json.loads(content))).encode()


def yaml_of(random: Random, content: bytes) -> bytes:
    """Change a value of a YAML file, or its bytes."""
    if random.random() < 0.4:
        return bytes_of(random, content)
    return yaml.safe_dump(tree_of(random, yaml.safe_load(content))).encode()


def csv_of(random: Random, content: bytes) -> bytes:
    """Change a cell of a CSV file, or its bytes."""
    if random.random() < 0.4:
        return bytes_of(random, content)
    lines = [line.split(",") for line in content.decode().splitlines()]
    line = random.choice((lines[0], random.choice(lines)))
    odd = random.choice(("", "nan", "-inf", "1e308", "x", '"', "step", "9" * 5000, "\0", "1_0"))
    line[random.randrange(len(line))] = odd
    return ("\n".join(map(",".join, lines)) + "\n").encode()


def zip_of(
    random: Random, content: bytes, member_of: Callable[[Random, str, bytes], bytes]
) -> bytes:
    """Change a member of a ZIP file and keep its checksum right, or change the file's bytes."""
    if random.random() < 0.4:
        return bytes_of(random, content)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        names = old.namelist()
        chosen = random.choice((random.choice(names), names[0]))
        with zipfile.ZipFile(made, "w") as new:
            for name in names:
                member = old.read(name)
                if name == chosen:
                    member = member_of(random, name, member)
                    name = random.choice((name, name, name, f"../{name}", f"/{name}"))
                new.writestr(name, member)
    return made.getvalue()


def torch_of(random: Random, content: bytes) -> bytes:
    """Change what torch.save wrote: bytes of the file, of its parts, or a value."""
    if random.random() < 0.4:
        tree = torch.load(io.BytesIO(content), weights_only=True)
        changed = io.BytesIO()
        torch.save(tree_of(random, tree), changed)
        return changed.getvalue()
    if not content.startswith(b"PK"):
        return bytes_of(random, content)
    return zip_of(random, content, lambda random, _, member: bytes_of(random, member))


def npz_of(random: Random, content: bytes) -> bytes:
    """Change an NPZ file: the shape and the type that an array claims, too."""
    return zip_of(random, content, _npy_of)


def _npy_of(random: Random, _: str, content: bytes) -> bytes:
    shape = random.choice(
        (b"(9999999999,)", b"(1, 400)", b"()", b"(-1,)", b"(400, 99)", b"(0, 16)")
    )
    kind = random.choice((b"'|O'", b"'<f8'", b"'<U0'", b"'<U9'", b"'<c8'", b"'<M8[s]'", b"'|V5'"))
    how = random.randrange(3)
    if how == 0:
        return bytes_of(random, content)
    head, values = content[:128], content[128:]
    start = b"'shape': " if how == 1 else b"'descr': "
    at = head.find(start) + len(start)
    end = head.find(b")" if how == 1 else b",", at) + (how == 1)
    changed = head[:at] + (shape if how == 1 else kind) + head[end:]
    return changed.rstrip(b"\n ")[:127].ljust(127) + b"\n" + values


def safetensors_of(random: Random, content: bytes) -> bytes:
    """Change a safetensors file: its header as a tree, too."""
    if random.random() < 0.4:
        return bytes_of(random, content)
    size = int.from_bytes(content[:8], "little")
    header = json_of(random, content[8 : 8 + size])
    claimed = random.choice((len(header), len(header), len(header), 2**40, 2**63))
    return claimed.to_bytes(8, "little") + header + content[8 + size :]


def onnx_of(random: Random, content: bytes) -> bytes:
    """Change an ONNX file: its nodes, tensors and description, too."""
    import onnx

    if random.random() < 0.3:
        return bytes_of(random, content)
    model = onnx.load_model_from_string(content)
    how = random.randrange(5)
    tensor = random.choice(model.graph.initializer)
    node = random.choice(model.graph.node)
    if how == 0:
        tensor.ClearField("dims")
        tensor.dims.extend(random.choice(((2**40,), (2**20, 2**20), (0,), (), (-1,), (3, 1))))
    elif how == 1:
        tensor.raw_data = bytes_of(random, tensor.raw_data)
    elif how == 2:
        node.op_type = random.choice(
            ("Expand", "Loop", "Relu", "ConstantOfShape", "Nothing", "Tile")
        )
    elif how == 3:
        names = [name for each in model.graph.node for name in each.output]
        for place in range(len(node.input)):
            if random.random() < 0.5:
                node.input[place] = random.choice(names)
    else:
        described = next(each for each in model.metadata_props if each.key == "quiesce")
        described.value = json.dumps(tree_of(random, json.loads(described.value)))
    return model.SerializeToString()
