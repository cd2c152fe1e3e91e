"""GGUF files hold the trained codes and scales, and llama.cpp computes with them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import quiesce as qs
from quiesce.errors import ExportError
from quiesce.export.gguf.architectures import interleaved
from quiesce.export.gguf.blocks import Q4_0, Q8_0
from support.messages import telling

gguf = pytest.importorskip("gguf", reason="pip install 'quiesce[gguf]'")
transformers = pytest.importorskip("transformers", reason="pip install 'quiesce[hf]'")

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
DECODER = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
SCHEME = {"act_bits": None, "group_size": 32, "scale_dtype": "float16"}
KINDS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**DECODER, "tie_word_embeddings": False}),
    "llama-tied": ("LlamaConfig", "LlamaForCausalLM", {**DECODER, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**DECODER, "head_dim": 32}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**DECODER, "head_dim": 16}),
    "bert": ("BertConfig", "BertModel", SIZES),
}


def network(kind: str, *, bits: int = 4, **changes: Any) -> nn.Module:
    """A prepared network with random weights."""
    config, cls, sizes = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**sizes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    scheme = qs.Scheme(weight_bits=bits, **{**SCHEME, **changes})
    return qs.prepare(model, scheme, {"input_ids": torch.randint(2, 320, (2, 12))})


def bytes_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 320 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = "the quick brown fox jumps over the lazy dog; import numpy as np; def f(x): return x"
    made.train_from_iterator([text * 3, json.dumps(list(range(500)))], trainer)
    assert made.get_vocab_size() == 320
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("kind", [Q4_0, Q8_0], ids=lambda kind: kind.name)
@given(st.integers(0, 2**31))
def test_blocks_are_what_the_gguf_package_reads(kind: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    top = 2 ** (kind.bits - 1)
    codes = random.integers(-top, top, (3, 64), dtype=np.int8)
    scales = random.uniform(1e-3, 1, (3, 2)).astype(np.float16)
    packed = kind.pack(codes, scales)
    floats = gguf.dequantize(packed, gguf.GGMLQuantizationType[kind.name])
    assert (floats == codes * np.repeat(scales.astype(np.float32), 32, axis=1)).all()
    assert all((a == b).all() for a, b in zip(kind.unpack(packed), (codes, scales), strict=True))


@pytest.mark.parametrize(
    ("kind", "bits"), [*((kind, 4) for kind in KINDS), ("llama", 2), ("qwen2", 8)]
)
def test_the_file_holds_the_values_of_the_stripped_network(
    kind: str, bits: int, tmp_path: Path
) -> None:
    model = network(kind, bits=bits)
    made = qs.export_gguf(model, tmp_path / "net.gguf")
    assert (made.codes_changed, made.scales_changed) == (0, 0)
    used = [w for w in qs.quantized_weights(model) if not w.name.startswith("pooler.")]
    assert made.codes == sum(weight.latent.numel() for weight in used)
    plain = dict(qs.strip(model).named_parameters())
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[made.architecture.upper()], 2)
    tensors = {each.name: each for each in gguf.GGUFReader(made.path).tensors}
    seen = set()
    for name, values in plain.items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            assert name.startswith("pooler.")
            continue
        seen.add(found)
        expected = values.detach().numpy()
        if kind.startswith("llama") and ".q_proj." in name:
            expected = interleaved(expected, config.num_attention_heads)
        elif kind.startswith("llama") and ".k_proj." in name:
            expected = interleaved(expected, config.num_key_value_heads)
        elif kind == "gemma" and name.endswith("norm.weight"):
            expected = expected + 1
        tensor = tensors[found]
        held = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
        assert (held == expected).all(), name
    assert seen == set(tensors)


RUNTIME = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup = sys.argv[1], 64, False
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
asked = {"prompt": json.loads(sys.argv[2]), "n_predict": 1, "n_probs": 320, "temperature": 0.0}
answer = server.handle_completions(asked)
best = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
print("RESULT", json.dumps({each["id"]: each["logprob"] for each in best}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "gemma"])
def test_llama_cpp_computes_what_the_network_computes(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = network(kind)
    made = qs.export_gguf(model, tmp_path / "net.gguf", tokenizer=bytes_tokenizer())
    ids = torch.randint(2, 320, (1, 16), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
    command = [sys.executable, "-c", RUNTIME, str(made.path), json.dumps(ids[0].tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    line = next(part for part in done.stdout.split("RESULT ")[1:]).splitlines()[0]
    found = {int(key): value for key, value in json.loads(line).items()}
    # llama.cpp rounds activations to 8 bits in blocks of 32; a wrong order of rows moves by 2
    error = max(abs(value - float(expected[key])) for key, value in found.items())
    assert error < 0.25
    assert max(found, key=lambda key: found[key]) == int(expected.argmax())


def test_word_pieces_mark_the_beginning_of_words(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "##er"]
    vocabulary = {**{word: i for i, word in enumerate(words)}}
    vocabulary |= {f"w{i}": i for i in range(len(words), 320)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    path = qs.export_gguf(network("bert"), tmp_path / "net.gguf", tokenizer=tokenizer).path
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.model"].contents() == "bert"
    assert fields["tokenizer.ggml.tokens"].contents()[5:7] == ["\u2581low", "er"]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("llama", {"group_size": None}, ["q_proj", "group_size=32", "float16"]),
        ("llama", {"scale_dtype": "bfloat16"}, ["q_proj", "bfloat16", "float16"]),
        ("bert", {"group_size": 16}, ["encoder.layer.0", "group_size=32"]),
    ],
)
def test_schemes_that_do_not_fit_are_named(
    kind: str, changes: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=telling(*said)):
        qs.export_gguf(network(kind, **changes), tmp_path / "net.gguf")
    assert not list(tmp_path.iterdir())


def test_other_classes_and_settings_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 32))
    qs.prepare(model, qs.Scheme(**SCHEME), torch.rand(1, 32))
    with pytest.raises(ExportError, match=telling("llama", "qwen3", "target='onnx'")):
        qs.export_gguf(model, tmp_path / "net.gguf")
    scaled = network("llama")
    scaled.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4}
    with pytest.raises(ExportError, match=telling("rope_type", "yarn")):
        qs.export_gguf(scaled, tmp_path / "net.gguf")
    with pytest.raises(ExportError, match=telling("tokenizer", "BPE", "WordPiece")):
        qs.export_gguf(network("llama"), tmp_path / "net.gguf", tokenizer=object())
    assert not list(tmp_path.iterdir())
