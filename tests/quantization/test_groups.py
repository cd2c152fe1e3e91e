"""One scale per group of inputs: the same arithmetic as one scale per row of a folded weight."""

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.arithmetic.scale_formats import in_format
from quiesce.errors import PrepareError
from quiesce.oscillation import weight_blocks
from support.messages import telling

GROUPED = {"weight_bits": 3, "act_bits": None, "first_last_bits": None, "group_size": 16}


def network(**scheme: object) -> nn.Module:
    """A prepared network of two linear layers with several groups each."""
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8))
    return qs.prepare(model, qs.Scheme(**{**GROUPED, **scheme}), torch.rand(2, 32))


def folded(weight: torch.Tensor, size: int = 16) -> torch.Tensor:
    return weight.detach().reshape(-1, size)


def train(model: nn.Module, steps: int, *cures: qs.Cure) -> qs.OscillationTracker:
    generator = torch.Generator().manual_seed(1)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    control = qs.Control(optimizer, weights, tracker, cures)
    for _ in range(steps):
        x = torch.randn(16, 32, generator=generator)
        optimizer.zero_grad()
        (model(x).square().mean() + control.penalty()).backward()
        optimizer.step()
    return tracker


@pytest.mark.parametrize("ranges", ["mse", "minmax", "lsq"])
def test_groups_are_rows_of_the_folded_weight(ranges: str) -> None:
    model = network(ranges=ranges)
    for weight in qs.quantized_weights(model):
        rows = nn.Linear(16, weight.latent.numel() // 16, bias=False)
        rows.weight = nn.Parameter(folded(weight.latent))
        scheme = {**GROUPED, "group_size": None, "per_channel": True, "ranges": ranges}
        qs.prepare(rows, qs.Scheme(**scheme), torch.rand(1, 16))
        [expected] = qs.quantized_weights(rows)
        assert torch.equal(folded(weight.codes()), expected.codes())
        assert torch.equal(weight.raw_scale.flatten(), expected.raw_scale.flatten())
        assert weight.scale.shape == weight.latent.shape


def test_gradients_are_those_of_fake_quantize_with_spread_scales() -> None:
    model = network(grad_scaling=True)
    quantizer, latent = model[0].weight_quantizer, model[0].latent
    upstream = torch.randn(latent.shape)
    quantizer(latent).backward(upstream)
    x, scale = folded(latent).requires_grad_(), quantizer.scale.detach().reshape(-1, 1)
    scale.requires_grad_()
    grid = qs.Grid(3, signed=True)
    qs.fake_quantize(x, scale, grid, grad_scale="lsq").backward(folded(upstream))
    assert torch.equal(latent.grad, x.grad.reshape(latent.shape))
    assert torch.equal(quantizer.scale.grad, scale.grad.reshape(quantizer.scale.shape))


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "e8m0"])
def test_scales_in_use_stay_in_their_format_through_training(scale_dtype: str) -> None:
    model = network(scale_dtype=scale_dtype)
    before = model[0].weight_quantizer.scale.detach().clone()
    train(model, 20)
    assert not torch.equal(model[0].weight_quantizer.scale, before)
    for weight in qs.quantized_weights(model):
        assert torch.equal(in_format(weight.scale, scale_dtype), weight.scale)
        emitted = weight.module.weight_quantizer(weight.latent)
        assert torch.equal(weight.scale * weight.codes(), emitted)
    x = torch.rand(4, 32)
    assert torch.equal(qs.strip(model)(x), model(x))


@pytest.mark.parametrize("large", [False, True])
def test_tracker_counts_what_brute_force_counts(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # large layers are read in place, by rows
        monkeypatch.setitem(weight_blocks._IN_PLACE, "cpu", 64)
    model = network()
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    qs.Control(optimizer, weights, tracker)
    direction = {w.name: torch.zeros(w.latent.shape, dtype=torch.int8) for w in weights}
    frequency = {w.name: torch.zeros(w.latent.shape) for w in weights}
    codes = {w.name: w.codes() for w in weights}
    for step in range(30):
        optimizer.zero_grad()
        model(torch.randn(16, 32)).square().mean().backward()
        optimizer.step()
        for w in weights:
            moved = (w.codes() - codes[w.name]).sign() if step else torch.zeros_like(w.codes())
            against = (moved != 0) & (moved == -direction[w.name])
            frequency[w.name] = 0.95 * frequency[w.name] + 0.05 * against
            direction[w.name] = torch.where(moved != 0, moved, direction[w.name])
            codes[w.name] = w.codes()
    assert sum(float(f.sum()) for f in frequency.values()) > 0
    for w in weights:
        torch.testing.assert_close(tracker.frequency(w.name), frequency[w.name])


def test_freezing_pins_groups_at_their_codes() -> None:
    model = network()
    tracker = train(model, 60, qs.Freezing(0.06, max_frozen=None))
    assert tracker.summary().frozen > 0.01
    for weight in qs.quantized_weights(model):
        pinned = (weight.scale * weight.codes())[weight.frozen]
        assert torch.equal(weight.latent[weight.frozen], pinned)


def test_dampening_is_the_distance_to_the_grid_of_each_group() -> None:
    model = network()
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Dampening(0.5)])
    expected = 0.0
    for weight in weights:
        u = weight.held / weight.scale
        inside = (u >= weight.grid.quant_min) & (u <= weight.grid.quant_max)
        off = (weight.held - weight.quantized())[inside]
        expected += 0.5 * float(off.square().sum())
    assert control.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_restores_groups() -> None:
    model, other = network(scale_dtype="float16"), network(scale_dtype="float16")
    train(model, 30, qs.Freezing(0.02, max_frozen=None))
    other.load_state_dict(model.state_dict())
    for one, two in zip(qs.quantized_weights(model), qs.quantized_weights(other), strict=True):
        assert torch.equal(one.codes(), two.codes())
        assert torch.equal(one.frozen, two.frozen)


def test_convolutions_are_not_grouped_and_overrides_apply() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 4))
    scheme = qs.Scheme(**{**GROUPED, "per_channel": True, "overrides": {"3": {"group_size": 4}}})
    qs.prepare(model, scheme, torch.rand(1, 3, 4, 4))
    assert [layer.scales for layer in qs.describe(model).layers] == [8, 16 * 2, 4 * 4]


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"group_size": 20}, ["group_size", "0", "32", "20"]),
        ({"scale_dtype": "float16"}, ["0.weight", "float16", "bfloat16"]),
    ],
)
def test_refusals_name_layer_and_remedy(scheme: dict[str, object], said: list[str]) -> None:
    model = nn.Sequential(nn.Linear(32, 4))
    nn.init.constant_(model[0].weight, 1e7)
    with pytest.raises(PrepareError, match=telling(*said)):
        qs.prepare(model, qs.Scheme(**{**GROUPED, **scheme}), torch.rand(1, 32))


@pytest.mark.parametrize("size", [1, 0, -4, True, 2.5])
def test_a_group_size_is_an_integer_above_one(size: object) -> None:
    with pytest.raises(ValueError, match="group_size"):
        qs.Scheme(group_size=size)
