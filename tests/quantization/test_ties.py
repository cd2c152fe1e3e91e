"""Weights that modules share: one quantizer, one set of values, in every copy and every file."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import PrepareError
from quiesce.export.arrays import export_arrays
from quiesce.export.program import export_program
from support.small_networks import weights_only


class Tied(nn.Module):
    """Two layers with one weight, and an embedding that shares it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 6)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.one.weight = self.two.weight = self.embedding.weight
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.embedding(x))))


def test_a_shared_weight_is_quantized_once_with_the_most_bits_asked_for() -> None:
    scheme = qs.Scheme(act_bits=None, overrides={"two": {"weight_bits": 3}})
    model = qs.prepare(Tied(), scheme, torch.arange(6))
    assert [(w.name, w.grid.bits) for w in qs.quantized_weights(model)] == [("one", 8), ("head", 8)]
    assert model.one.weight_quantizer is model.two.weight_quantizer
    assert model.one.latent is model.two.latent
    assert len(qs.quantizer_parameters(model)) == 2


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_embedding_looks_up_the_quantized_rows_of_its_layer(per_channel: bool) -> None:
    model = qs.prepare(Tied(), weights_only(per_channel=per_channel), torch.arange(6))
    [weight, _] = qs.quantized_weights(model)
    assert torch.equal(model.embedding(torch.arange(6)), weight.quantized())
    assert model.embedding.weight is model.one.latent
    model(torch.arange(6)).sum().backward()
    assert weight.latent.grad.any()


def test_strip_keeps_ties() -> None:
    model = qs.prepare(Tied(), weights_only(), torch.arange(6))
    for prepared in (model, copy.deepcopy(model)):
        plain = qs.strip(prepared)
        assert torch.equal(plain(torch.arange(6)), model(torch.arange(6)))
        assert plain.one.weight is plain.two.weight is plain.embedding.weight
        assert type(plain.embedding) is nn.Embedding
        assert set(plain.state_dict()) == set(Tied().state_dict())


@pytest.mark.parametrize("exclude", ["one", "embedding"])
def test_one_end_of_a_tie_does_not_stay_in_float(exclude: str) -> None:
    with pytest.raises(PrepareError, match=f"{exclude}.weight is the weight of"):
        qs.prepare(Tied(), weights_only(exclude=[exclude]), torch.arange(6))
    both = weights_only(exclude=["one", "two", "embedding"])
    model = qs.prepare(Tied(), both, torch.arange(6))
    assert [weight.name for weight in qs.quantized_weights(model)] == ["head"]


def test_a_tie_with_a_module_that_can_not_be_quantized_is_refused_by_name() -> None:
    class Own(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Bilinear(1, 6, 6)
            self.own.bias = self.one.weight

    with pytest.raises(PrepareError, match=r"own.bias is the weight of one"):
        qs.prepare(Own(), weights_only(), torch.arange(6))


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"sparse": True}])
def test_embeddings_that_need_a_float_weight_are_refused_by_name(options: dict) -> None:
    model = Tied()
    model.embedding = nn.Embedding(6, 6, _weight=model.one.weight, **options)
    model.embedding.weight = model.one.weight
    with pytest.raises(PrepareError, match=r"embedding.weight is the weight of one.*max_norm"):
        qs.prepare(model, weights_only(), torch.arange(6))


@pytest.mark.parametrize("transposed", [False, True])
def test_two_parameters_in_one_memory_are_refused_by_name(transposed: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False))
    shared = model[0].weight.detach()
    model[2].weight = nn.Parameter(shared.t() if transposed else shared)
    with pytest.raises(PrepareError, match=r"0.weight and 2.weight are two parameters in one mem"):
        qs.prepare(model, weights_only(), torch.ones(2, 6))


class TiedTokens(nn.Module):
    """An embedding and a head that share a weight, and two layers that do; one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.down.weight = self.up.weight
        self.again = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids.long())
        x = self.down(self.up(x).relu()).relu()
        return self.head(self.again(self.again(x).relu()).relu()).mean(1)


@pytest.fixture(params=[False, True], ids=["per tensor", "per channel"])
def tokens(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(20, (16, 5)).float()
    scheme = qs.Scheme(weight_bits=4, first_last_bits=6, per_channel=request.param)
    model = qs.prepare(TiedTokens(), scheme, ids)
    return qs.calibrate(model, [ids]).eval(), ids


def test_a_program_keeps_ties(tokens: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, ids = tokens
    export_program(model, tmp_path / "m.pt2", ids)
    program = torch.export.load(tmp_path / "m.pt2")
    assert torch.equal(program.module()(ids), model(ids))
    codes = [
        value
        for name, value in {**program.state_dict, **program.constants}.items()
        if name.endswith("codes")
    ]
    assert sorted(value.numel() for value in {v.data_ptr(): v for v in codes}.values()) == [
        64,
        64,
        160,
    ]


def test_an_onnx_file_keeps_ties(tokens: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, ids = tokens
    qs.export_onnx(model, tmp_path / "m.onnx", ids)
    graph = onnx.load(tmp_path / "m.onnx").graph
    sizes = [int(np.prod(each.dims)) for each in graph.initializer]
    assert sizes.count(160) == 1, "the embedding and the head have a copy each"
    assert sizes.count(64) == 2


def test_arrays_keep_ties_or_refuse_them(tokens: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, ids = tokens
    header = export_arrays(model, tmp_path / "m.npz", ids)
    layers = {each["name"]: each for each in header["layers"]}
    assert layers["down"]["shared_with"] == "up"
    assert layers["embedding"]["kind"] == "embedding"
    assert layers["embedding"]["shared_with"] == "head"
    with np.load(tmp_path / "m.npz") as arrays:
        assert np.array_equal(arrays["embedding.codes"], arrays["head.codes"])
        assert json.loads(str(arrays["header"])) == header
        rows = arrays["embedding.codes"] * arrays["embedding.scale"].reshape(-1, 1)
    assert np.array_equal(rows, qs.strip(model).embedding.weight.detach().numpy())
