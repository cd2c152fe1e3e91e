"""BERT, ViT and Llama from small configurations: trained, stripped, exported, verified."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.errors import ExportError

from .training import check_stripped, trained

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def tokens(count: int = 8, length: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (count, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=100, num_labels=3, **SIZES)
    return transformers.BertForSequenceClassification(config)


def test_bert_with_any_number_of_tokens(tmp_path) -> None:
    labels = torch.arange(8) % 3
    model = trained(
        bert(),
        tokens(),
        [(tokens(), labels)],
        lambda model, given: cross_entropy(model(**given[0]).logits, given[1]),
    )
    check_stripped(model, tokens())
    made = qs.export_onnx(
        model, tmp_path / "model.onnx", tokens(), dynamic={1: "tokens"}, verify=False
    )
    found = qs.verify_onnx(model, made.path, [(tokens(8, 9), labels), tokens(32)])
    assert found.passed, found.verdict
    assert (found.compare, found.items, found.labelled) == ("top1", "images", 8)


def test_vit(tmp_path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **SIZES)
    pixels, labels = {"pixel_values": torch.randn(16, 3, 32, 32)}, torch.arange(16) % 5
    model = trained(
        transformers.ViTForImageClassification(config),
        pixels,
        [(pixels, labels)],
        lambda model, given: cross_entropy(model(**given[0]).logits, given[1]),
    )
    check_stripped(model, pixels)
    made = qs.export_onnx(model, tmp_path / "model.onnx", pixels)
    assert made.verification is not None
    assert made.verification.labelled == 0


def llama(*, tied: bool):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100, max_position_embeddings=64, tie_word_embeddings=tied, **SIZES
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_llama_with_and_without_tied_embeddings(tied, tmp_path) -> None:
    example = {**tokens(), "use_cache": False}
    model = trained(
        llama(tied=tied),
        example,
        [(example, None)],
        lambda model, given: model(**given[0], labels=given[0]["input_ids"]).loss,
    )
    if tied:
        assert model.lm_head.latent is model.model.embed_tokens.weight
    check_stripped(model, example)
    made = qs.export_onnx(
        model, tmp_path / "model.onnx", example, dynamic={1: "tokens"}, verify=False
    )
    found = qs.verify_onnx(model, made.path, [({**tokens(16, 7), "use_cache": False}, None)])
    assert found.passed, found.verdict
    assert (found.compare, found.items, found.compared) == ("top1", "tokens", 16 * 7)


def test_a_cache_is_refused_in_one_line_before_tracing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was traced"))
    model = llama(tied=True)
    qs.calibrate(qs.prepare(model, qs.Scheme(), tokens()), [tokens()])
    with pytest.raises(ExportError, match="use_cache=False") as raised:
        qs.export_onnx(model, tmp_path / "model.onnx", tokens())
    assert "\n" not in str(raised.value)


def test_batches_of_a_transformers_tokenizer() -> None:
    model = qs.prepare(bert(), qs.Scheme(weight_bits=4, act_bits=4), tokens())
    qs.calibrate(model, [transformers.BatchEncoding(tokens())])
