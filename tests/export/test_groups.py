"""Weights with one scale per group of inputs, in ONNX files and torch programs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import ExportError
from quiesce.export.arrays import export_arrays
from quiesce.export.program import export_program
from support.messages import telling

onnx = pytest.importorskip("onnx")


def network(*, act_bits: int | None = None, **scheme: Any) -> tuple[nn.Module, torch.Tensor]:
    """A small trained-like network with groups of 32 and its input."""
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.LayerNorm(96), nn.Linear(96, 32))
    x = torch.randn(16, 64)
    fields = {"weight_bits": 4, "group_size": 32, "scale_dtype": "float16", **scheme}
    qs.prepare(model, qs.Scheme(act_bits=act_bits, first_last_bits=None, **fields), x)
    return qs.calibrate(model, [x]).eval(), x


@pytest.mark.parametrize("act_bits", [None, 8])
@pytest.mark.parametrize("pack", ["int8", "int4"])
def test_the_file_holds_codes_and_scales_in_blocks(
    act_bits: int | None, pack: str, tmp_path: Path
) -> None:
    model, x = network(act_bits=act_bits)
    path = tmp_path / "net.onnx"
    qs.export_onnx(model, path, x, pack=pack)
    found = qs.verify_onnx(model, path, [x], compare="max_error")
    assert found.passed
    proto = onnx.load(path)
    arrays = {each.name: each for each in proto.graph.initializer}
    for weight in qs.quantized_weights(model):
        stored = arrays[f"{weight.name}.weight_codes"]
        assert stored.data_type == onnx.TensorProto.DataType.Value(pack.upper())
        codes = onnx.numpy_helper.to_array(stored).astype(np.int8)
        assert (codes.T == weight.codes().numpy()).all()
        scales = onnx.numpy_helper.to_array(arrays[f"{weight.name}.weight_scale"])
        assert (scales.T == weight.raw_scale.numpy()).all()
    blocks = [
        attribute.i
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        for attribute in node.attribute
        if attribute.name == "block_size"
    ]
    assert blocks == ([32, 32] if pack == "int4" else [])


def test_a_changed_code_in_a_block_is_found(tmp_path: Path) -> None:
    model, x = network()
    path = tmp_path / "net.onnx"
    qs.export_onnx(model, path, x)
    proto = onnx.load(path)
    [stored] = [each for each in proto.graph.initializer if each.name == "0.weight_codes"]
    codes = onnx.numpy_helper.to_array(stored).copy()
    codes[3, 5] = -codes[3, 5] or 1
    stored.CopyFrom(onnx.numpy_helper.from_array(codes, stored.name))
    onnx.save(proto, path)
    assert not qs.verify_onnx(model, path, [x], compare="max_error").passed


@pytest.mark.slow
def test_a_tied_embedding_shares_the_blocks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    ids = {"input_ids": torch.randint(0, 64, (2, 8)), "use_cache": False}
    scheme = qs.Scheme(act_bits=None, group_size=32, scale_dtype="float16", first_last_bits=4)
    qs.prepare(model, scheme, ids)
    path = tmp_path / "net.onnx"
    qs.export_onnx(model, path, ids, pack="int4")
    assert qs.verify_onnx(model, path, [ids]).passed
    held = [each.name for each in onnx.load(path).graph.initializer]
    assert sum("lm_head" in name or "embed_tokens" in name for name in held) <= 3


def test_a_program_holds_the_scales_of_groups(tmp_path: Path) -> None:
    model, x = network()
    export_program(model, tmp_path / "net.pt2", x)
    loaded = torch.export.load(tmp_path / "net.pt2")
    assert torch.equal(loaded.module()(x), model(x))
    shapes = {tuple(values.shape) for values in loaded.state_dict.values()}
    assert (96, 2) in shapes


def test_arrays_refuse_groups(tmp_path: Path) -> None:
    model, x = network()
    with pytest.raises(ExportError, match=telling("0", "32", "ONNX", "group_size")):
        export_arrays(model, tmp_path / "net.npz", x)
