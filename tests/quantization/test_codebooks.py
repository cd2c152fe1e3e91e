"""Grids with any levels: the cases that equal integers do, and fp4 goes through all of training."""

import io

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.arithmetic.kernels import FUSED
from quiesce.errors import ExportError
from quiesce.oscillation import weight_blocks
from support.messages import telling

WEIGHTS_ONLY = {"act_bits": None, "first_last_bits": None, "grad_scaling": True}
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
UNEVEN = (-1.0, -0.3, 0.1, 0.45, 1.2)
CODEBOOKS = ["fp4", "ternary", "binary", UNEVEN]
CURES = {
    "freezing": lambda: qs.Freezing(0.06, max_frozen=None),
    "dampening": lambda: qs.Dampening(0.01),
    "bins": lambda: qs.BinRegularization(0.01),
    "reset": lambda: qs.OsciReset(period=20, window=10, ratio=1.5),
    "cga": lambda: qs.CGA(0.1),
}


def network(levels: object, **scheme: object) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8))
    chosen = qs.Scheme(**{**WEIGHTS_ONLY, "weight_levels": levels, **scheme})
    return qs.prepare(model, chosen, torch.rand(2, 32))


def train(model: nn.Module, steps: int, *cures: qs.Cure) -> qs.OscillationTracker:
    generator = torch.Generator().manual_seed(1)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    control = qs.Control(optimizer, weights, tracker, cures)
    for _ in range(steps):
        x = torch.randn(16, 32, generator=generator)
        optimizer.zero_grad()
        ((model(x) - x[:, :8]).square().mean() + control.penalty()).backward()
        optimizer.step()
    return tracker


@pytest.mark.parametrize("levels", CODEBOOKS, ids=str)
def test_every_value_is_the_level_nearest_to_the_latent(levels: object) -> None:
    model = network(levels)
    for weight in qs.quantized_weights(model):
        grid = weight.grid
        values = torch.tensor(grid.levels.values or tuple(range(-1, 2)))
        u = weight.latent.detach() / weight.scale
        nearest = values[(u[..., None] - values).abs().argmin(-1)]
        torch.testing.assert_close(weight.quantized(), nearest * weight.scale)
        torch.testing.assert_close(
            weight.module.weight_quantizer(weight.latent), weight.quantized(), rtol=0, atol=0
        )
        codes = weight.codes()
        assert codes.min() >= grid.quant_min
        assert codes.max() <= grid.quant_max
        assert weight.history.dtype == torch.uint8  # one byte for up to 16 levels


@pytest.mark.parametrize("cure", CURES)
def test_halves_of_integers_train_like_integers_with_twice_the_scale(cure: str) -> None:
    found = []
    for levels, factor in ((None, 1), (tuple(k / 2 for k in range(-4, 4)), 2)):
        model = network(levels, weight_bits=3)
        if levels is None:
            scales = [w.whole_scale.clone() for w in qs.quantized_weights(model)]
        for weight, scale in zip(qs.quantized_weights(model), scales, strict=True):
            assert bool(weight.grid.levels.values) == (factor == 2)
            for parameter in weight.scale_parameters:
                parameter.requires_grad_(False).copy_(factor * scale)
        tracker = train(model, 60, CURES[cure]())
        codes = [weight.codes() for weight in qs.quantized_weights(model)]
        found.append((codes, [w.latent for w in qs.quantized_weights(model)], tracker.summary()))
    (codes, latents, summary), (others, moved, second) = found
    assert summary == second
    assert summary.oscillating > 0
    assert all(
        torch.equal(*pair) for pair in zip([*codes, *latents], [*others, *moved], strict=True)
    )


@pytest.mark.parametrize("levels", ["fp4", "binary", UNEVEN], ids=str)
def test_gradients_are_those_of_lsq_with_the_level_in_place_of_the_code(levels: object) -> None:
    grid = qs.Grid.of_levels(levels)
    values = torch.tensor(grid.levels.values)
    x = (4 * torch.randn(500)).requires_grad_()
    scale = torch.tensor(0.7, requires_grad=True)
    upstream = torch.randn(500)
    qs.fake_quantize(x, scale, grid).backward(upstream)
    u = (x / scale).detach()
    level = values[(u[:, None] - values).abs().argmin(-1)]
    inside = (u >= values[0]) & (u <= values[-1])
    assert torch.equal(x.grad, torch.where(inside, upstream, 0.0))
    slope = torch.where(inside, level - u, level)
    torch.testing.assert_close(scale.grad, (upstream * slope).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("u", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
def test_halfway_the_even_mantissa_is_chosen(u: float) -> None:
    """A tie of IEEE 754 goes to the even mantissa, which is that of every second number of e2m1."""
    grid = qs.Grid.of_levels("fp4")
    for sign in (1, -1):
        code = grid.codes(torch.tensor(sign * u), 1.0)
        low = next(i for i in range(7) if u - FP4[i] == FP4[i + 1] - u)
        even = low + low % 2
        assert code.item() == sign * even


@pytest.mark.parametrize("levels", CODEBOOKS, ids=str)
@pytest.mark.parametrize("large", [False, True])
def test_tracker_counts_what_brute_force_counts(
    levels: object, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # large layers are read in place, by rows
        monkeypatch.setitem(weight_blocks._IN_PLACE, "cpu", 64)
    model = network(levels)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    qs.Control(optimizer, weights, tracker)
    direction = {w.name: torch.zeros(w.latent.shape, dtype=torch.int8) for w in weights}
    frequency = {w.name: torch.zeros(w.latent.shape) for w in weights}
    codes = {w.name: w.codes() for w in weights}
    for step in range(30):
        optimizer.zero_grad()
        x = torch.randn(16, 32)
        (model(x) - x[:, :8]).square().mean().backward()
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


@pytest.mark.parametrize("levels", CODEBOOKS, ids=str)
@pytest.mark.parametrize("cure", CURES)
def test_cures_leave_weights_on_their_levels(levels: object, cure: str) -> None:
    model = network(levels)
    train(model, 60, CURES[cure]())
    frozen = 0
    for weight in qs.quantized_weights(model):
        assert torch.equal(weight.latent[weight.frozen], weight.quantized()[weight.frozen])
        frozen += int(weight.frozen.sum())
    assert (frozen > 0) == (cure == "freezing")
    x = torch.rand(4, 32)
    assert torch.equal(qs.strip(model)(x), model(x))


def test_dampening_is_the_distance_to_the_nearest_level() -> None:
    model = network("fp4", group_size=16)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Dampening(0.5)])
    expected = 0.0
    for weight in weights:
        inside = (weight.held / weight.scale).abs() <= 6
        expected += 0.5 * float((weight.held - weight.quantized())[inside].square().sum())
    assert control.penalty().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("levels", CODEBOOKS, ids=str)
def test_fused_kernels_compute_what_eager_ones_do(levels: object) -> None:
    results = []
    for kernels in (None, FUSED):
        model = network(levels, per_channel=True)
        for module in model.modules():
            if kernels is not None and hasattr(module, "kernels"):
                module.kernels = kernels
        tracker = train(model, 12, qs.Dampening(0.01))
        results.append(([w.codes() for w in qs.quantized_weights(model)], tracker.summary()))
    assert all(torch.equal(*pair) for pair in zip(results[0][0], results[1][0], strict=True))


@pytest.mark.slow
def test_a_compiled_network_computes_what_the_plain_one_does() -> None:
    model = network("fp4", group_size=16, scale_dtype="e8m0")
    x = torch.randn(8, 32)
    plain = model(x)
    plain.square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    made = torch.compile(model, fullgraph=True)(x)
    made.square().sum().backward()
    torch.testing.assert_close(made, plain)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_restores_levels_and_refuses_others() -> None:
    model, other = network("fp4"), network("fp4")
    train(model, 40, qs.Freezing(0.02, max_frozen=None))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    for one, two in zip(qs.quantized_weights(model), qs.quantized_weights(other), strict=True):
        assert torch.equal(one.codes(), two.codes())
        assert torch.equal(one.frozen, two.frozen)
    stretched = tuple(level * 1.1 for level in model[0].weight_quantizer.weight_grid.levels.values)
    for levels in (stretched, None):
        with pytest.raises(RuntimeError, match=r"levels|limits"):
            network(levels).load_state_dict(model.state_dict())


def test_layers_with_bits_of_their_own_have_integers() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    overrides = {"1": {"weight_bits": 3}}
    scheme = qs.Scheme(weight_levels="fp4", act_bits=None, overrides=overrides)
    qs.prepare(model, scheme, torch.rand(1, 8))
    grids = [weight.grid for weight in qs.quantized_weights(model)]
    assert [grid.bits for grid in grids] == [8, 3, 4, 8]
    assert [bool(grid.levels.values) for grid in grids] == [False, False, True, False]


@pytest.mark.parametrize("estimator", [qs.EWGS(), qs.Hysteresis(), qs.StochasticRounding()])
def test_estimators_round_between_levels(estimator: qs.Estimator) -> None:
    model = network("fp4", estimator=estimator)
    train(model, 20)
    for weight in qs.quantized_weights(model):
        values = torch.tensor(weight.grid.levels.values)
        emitted = weight.module.weight_quantizer(weight.latent) / weight.scale
        assert (emitted[..., None] - values).abs().amin(-1).max() < 1e-5


def test_integer_formats_refuse_levels_and_take_ternary(tmp_path: object) -> None:
    with pytest.raises(ExportError, match=telling("0", "levels", "export_gguf")):
        qs.export_onnx(network("fp4"), f"{tmp_path}/a.onnx", torch.rand(2, 32))
    qs.export_onnx(network("ternary"), f"{tmp_path}/b.onnx", torch.rand(2, 32))


@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        ("fp5", ValueError),
        ((0.0,), ValueError),
        ((1.0, 1.0), ValueError),
        ((-2.0, -1.0), ValueError),
        ((0.0, float("inf")), ValueError),
        ((0.0, float("nan")), ValueError),
        ((True, 2), TypeError),
        ((0.0, "1"), TypeError),
        (tuple(range(200)), ValueError),
    ],
)
def test_levels_are_a_name_or_ascending_numbers(levels: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="levels"):
        qs.Scheme(weight_levels=levels)
