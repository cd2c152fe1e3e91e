"""One suite that every kind of layer and every scheme passes: exported, and verified."""

import copy
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.export.packing import PACKS

from .networks import calibrated, images, mobile


class Twice(nn.Module):
    """One layer called twice, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding=1)
        self.same.weight = self.again.weight
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.first(x).relu()).relu()
        x = self.norm(self.same(self.again(x))).relu()
        return self.last(x.mean((2, 3)))


class Thrice(nn.Module):
    """One layer called on one tensor twice, as Monte-Carlo dropout does, and then on another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout()
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = self.again(self.drop(x)) + self.again(self.drop(x))
        return self.last(self.again(x.relu()).relu().mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers on (batch, tokens, features), layer norm, GELU, attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, dim=-1)  # one head
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))
        return self.head(nn.functional.gelu(x).mean(1))


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 24 * 24, 3),
    )


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(3, 6, 5, stride=3),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def all_convolutions() -> nn.Module:
    """The last layer is one, with a bias, and its output the network's."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)
    )


NETWORKS = {
    "mobile": mobile,
    "all_convolutions": all_convolutions,
    "twice": Twice,
    "thrice": Thrice,
    "tokens": Tokens,
    "transposed": transposed,
    "one_dimensional": one_dimensional,
}
SCHEMES = {
    "w3a3": {},
    "w2a2": {"weight_bits": 2, "act_bits": 2},
    "w8a8": {"weight_bits": 8, "act_bits": 8},
    "per_channel": {"weight_bits": 4, "act_bits": 4, "per_channel": True},
    "offsets": {"learn_offset": True},
    "weights_only": {"act_bits": None},
    "first_input": {"first_input_bits": 8},
    "residual": {"residual": "quantized"},
}


PAIRS = [
    ("mobile", "w3a3"),
    ("mobile", "first_input"),
    ("all_convolutions", "per_channel"),
    ("tokens", "residual"),
    ("one_dimensional", "offsets"),
]
MORE = [
    *(("mobile", scheme) for scheme in ("w2a2", "w8a8", "weights_only", "residual", "offsets")),
    ("transposed", "per_channel"),
    ("twice", "residual"),
    ("twice", "offsets"),
    ("thrice", "offsets"),
    ("tokens", "w3a3"),
]
"""Together with `PAIRS` every network and every scheme at least once."""


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [*PAIRS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)],
)
def test_it_is_exported_and_verified(kind, scheme, tmp_path) -> None:
    network = calibrated(NETWORKS[kind](), **SCHEMES[scheme])
    before = copy.deepcopy(network.state_dict())
    made = qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert made.verification is not None
    assert made.verification.passed
    assert sum(layer.optimisations for layer in made.verification.layers) == 0
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def in_one_of(fast: str) -> list[Any]:
    """All containers, of which all but one are slow."""
    return [pytest.param(pack, marks=[] if pack == fast else pytest.mark.slow) for pack in PACKS]


@pytest.mark.parametrize("pack", ["int4", pytest.param("int2", marks=pytest.mark.slow)])
def test_products_with_packed_weights_round_nothing(pack, tmp_path) -> None:
    network = calibrated(Tokens(), weight_bits=2, act_bits=8)
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), pack=pack)
    assert made.verification is not None
    assert made.verification.passed


@pytest.mark.parametrize("pack", in_one_of("int4"))
def test_a_network_that_ends_in_a_convolution_in_every_container(pack, tmp_path) -> None:
    network = calibrated(all_convolutions(), weight_bits=2)
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), pack=pack)
    assert made.verification is not None
    assert made.verification.passed


@pytest.mark.slow
@pytest.mark.parametrize("pack", in_one_of("int2"))
def test_every_container_holds_the_codes(pack, tmp_path) -> None:
    overrides = {"4": {"weight_bits": 2}}
    network = calibrated(mobile(), overrides=overrides)
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), pack=pack)
    assert made.verification is not None
    assert made.verification.passed
    types = {each.name: each.data_type for each in onnx.load(made.path).graph.initializer}
    narrow = {"int8": ("INT8", "INT8"), "int4": ("INT4", "INT4"), "int2": ("INT4", "INT2")}[pack]
    stored = {layer.name: types[layer.weight] for layer in made.description.layers}
    kinds = onnx.TensorProto.DataType
    assert stored["0"] == kinds.Value("INT8")  # 8 bits
    assert stored["3.body.0"] == kinds.Value(narrow[0])  # 3 bits
    assert stored["4"] == kinds.Value(narrow[1])  # 2 bits


def test_a_packed_file_holds_two_codes_a_byte(tmp_path) -> None:
    network = calibrated(mobile())
    made = qs.export_onnx(network, tmp_path / "model.onnx", images(), pack="int4")
    stored = {each.name: each for each in onnx.load(made.path).graph.initializer}
    assert len(stored["3.body.0.weight_codes"].raw_data) == 16 * 8 // 2


def test_a_layer_called_twice_and_a_shared_weight_keep_their_names(tmp_path) -> None:
    made = qs.export_onnx(calibrated(Twice()), tmp_path / "model.onnx", images())
    uses = {layer.name: layer.weight for layer in made.description.layers}
    assert list(uses) == ["first", "again", "again:2", "same", "last"]
    assert uses["same"] == "again.weight_codes"


def test_layers_left_in_float_are_named(tmp_path) -> None:
    network = calibrated(mobile(), exclude=["4"])
    made = qs.export_onnx(network, tmp_path / "model.onnx", images())
    assert made.description.left_float == ("4",)
    assert "4" not in {layer.name for layer in made.description.layers}


@pytest.mark.slow
def test_a_recurrent_layer_between_quantized_ones_is_left_in_float_and_named(tmp_path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.memory = nn.GRU(10, 6, batch_first=True)
            self.last = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.memory(self.first(x).mean(1))
            return self.last(y[:, -1])

    made = qs.export_onnx(calibrated(Recurrent()), tmp_path / "model.onnx", images())
    assert made.description.left_float == ("memory",)
