"""Which layers are first and last, in real networks; and the table that says so."""

import pytest
import torch
import torchvision
import transformers
from torch import Tensor, nn

import quiesce as qs
from support.detectors import detector
from support.small_networks import prepared_network, weights_only


def roles(model: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Bits of weight and input of the layers that are not in the middle."""
    found = {each.name: (each.weight_bits, each.act_bits) for each in qs.describe(model).layers}
    return {name: bits for name, bits in found.items() if bits != (4, 4)}


def test_all_heads_of_a_one_stage_detector_are_last() -> None:
    model = detector("ssdlite320_mobilenet_v3_large")
    qs.prepare(model, qs.Scheme(), torch.rand(2, 3, 64, 64))
    kinds = roles(model)
    heads = {
        f"detector.head.{kind}_head.module_list.{i}.1"
        for i in range(6)
        for kind in ("classification", "regression")
    }
    first = "detector.backbone.features.0.0.0"
    assert kinds == {first: (8, None), **dict.fromkeys(heads, (8, 8))}


@pytest.mark.slow
def test_all_heads_of_a_two_stage_detector_are_last() -> None:
    model = detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    qs.prepare(model, qs.Scheme(), torch.rand(2, 3, 64, 64))
    kinds = roles(model)
    assert kinds.pop("detector.backbone.body.0.0") == (8, None)
    assert {name.partition("detector.")[2] for name in kinds} == {
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }


def test_query_key_and_value_of_a_block_are_alike() -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        vocab_size=50,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    qs.prepare(model, qs.Scheme(), {"input_ids": torch.arange(8).view(2, 4)})
    first = "bert.encoder.layer.0.attention.self."
    ends = dict.fromkeys([first + name for name in ("query", "key", "value")], (8, None))
    assert roles(model) == {**ends, "classifier": (8, 8)}


def test_a_causal_model_keeps_its_tie_and_its_head_is_last() -> None:
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, vocab_size=50, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    ids = torch.arange(8).view(2, 4)
    qs.prepare(model, qs.Scheme(act_bits=None), {"input_ids": ids})
    bits = {each.name: each for each in qs.describe(model).layers}
    assert bits["lm_head"].weight_bits == 8
    assert bits["lm_head"].ties == ("model.embed_tokens",)
    assert {name for name, each in bits.items() if each.weight_bits == 8} == {
        "lm_head",
        "model.embed_tokens",
        *(f"model.layers.0.self_attn.{part}_proj" for part in "qkv"),
    }
    plain = qs.strip(model)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.slow
def test_two_heads_of_a_segmentation_network_are_last() -> None:
    model = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights_backbone=None)
    qs.prepare(model, qs.Scheme(), torch.rand(2, 3, 64, 64))
    heads = {"classifier.low_classifier", "classifier.high_classifier"}
    assert roles(model) == {"backbone.0.0": (8, None), **dict.fromkeys(heads, (8, 8))}


class Flows(nn.Module):
    """Ways by which a tensor gets from a layer to a layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.way == "in place":
            room = torch.zeros(y.shape[0], 8)
            room[:, :4] = y
            y = room[:, :4].clone()
        elif self.way == "into a view":
            room = torch.zeros(y.shape[0], 8)
            room[:, 4:].copy_(y)
            y = room[:, 4:]
        elif self.way == "product":
            y, _ = y @ torch.ones(4, 4), torch.eye(len(x)) @ y
        elif self.way == "function":
            y = Doubled.apply(y)
        elif self.way == "detached":
            y = torch.sigmoid(y).detach() + x
        elif self.way == "integers":
            y = nn.functional.one_hot(y.argmax(1), 4) + x
        return self.two(y)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = torch.jit.trace(nn.Tanh(), torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.between(self.one(x)))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_scripted_function_between_two_layers_hides_nothing() -> None:
    model = qs.prepare(Scripted(), qs.Scheme(), torch.rand(2, 4))
    assert [each.act_bits for each in qs.describe(model).layers] == [None, 8]


def test_a_compiled_part_is_seen_through() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    model[1] = torch.compile(model[1], backend="eager")
    qs.prepare(model, qs.Scheme(), torch.rand(2, 4))
    described = qs.describe(model).layers
    assert [each.name for each in described] == ["0", "1.1"]
    assert [each.act_bits for each in described] == [None, 8]


@pytest.mark.parametrize("way", ["plain", "in place", "into a view", "product", "function"])
def test_a_layer_that_another_one_reads_is_not_last(way: str) -> None:
    model = qs.prepare(Flows(way), qs.Scheme(), torch.rand(3, 4))
    assert [each.act_bits for each in qs.describe(model).layers] == [None, 8]


@pytest.mark.parametrize("way", ["detached", "integers"])
def test_a_layer_that_is_read_without_gradients_is_last_too(way: str) -> None:
    model = qs.prepare(Flows(way), qs.Scheme(), torch.rand(3, 4))
    assert [each.act_bits for each in qs.describe(model).layers] == [None, None]  # both first


def test_the_table_says_what_every_layer_has_got() -> None:
    model = prepared_network(act_bits=4, per_channel=True)
    model[0].weight.requires_grad_(False)
    described = qs.describe(model)
    first, depthwise, last = described.layers
    assert (first.name, first.kind, first.shape, first.weight_bits) == (
        "0",
        "full",
        (4, 3, 3, 3),
        3,
    )
    assert (first.act_bits, first.scales, first.locked, first.frozen) == (None, 4, True, 0)
    assert (depthwise.kind, depthwise.act_bits, last.kind) == ("depth-wise", 4, "linear")
    lines = str(described).splitlines()
    assert lines == repr(described).splitlines()
    assert len(lines) == 2 + 3
    assert "locked" in lines[2]
    assert "4 x 3 x 3 x 3" in lines[2]
    assert max(map(len, lines)) < 100


def test_the_table_names_what_stays_in_float() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    qs.prepare(model, weights_only(exclude=["1"]), torch.ones(1, 4))
    assert qs.describe(model).left_float == ("1",)
    assert "in float: 1" in str(qs.describe(model))
    with pytest.raises(qs.QuiesceError, match=r"call quiesce\.prepare first"):
        qs.describe(nn.Linear(2, 2))
