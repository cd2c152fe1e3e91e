"""Calibration: what each quantizer sees, what it makes of it, and that nothing else moves."""

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import DivergedError, NotCalibratedError, NothingToDoError
from support.small_networks import prepared_network, small_network, weights_only

IMAGES = torch.rand(4, 3, 6, 6)


def chain(**changes) -> nn.Sequential:
    """Two linear layers with 4-bit inputs, not calibrated yet."""
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    scheme = weights_only(act_bits=4, first_input_bits=4, **changes)
    return qs.prepare(model, scheme, torch.zeros(1, 5))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_as_before(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in model.modules())
    quantizers = [module for module in model.modules() if isinstance(module, qs.FakeQuantizer)]
    assert all(quantizer.observe is None for quantizer in quantizers)


@pytest.mark.parametrize(
    ("low", "signed"), [(-1e-6, True), (-3.0, True), (0.0, False), (0.5, False)]
)
def test_a_value_below_zero_anywhere_asks_for_a_signed_grid(low: float, signed: bool) -> None:
    model = chain()
    batches = [torch.rand(2, 5) + 0.5 for _ in range(3)]
    batches[1][1, 3] = low
    qs.calibrate(model, batches)
    assert model[0].input_quantizer.grid == qs.Grid(4, signed=signed)


@pytest.mark.parametrize("ranges", ["mse", "minmax", "percentile", "lsq"])
def test_inputs_are_measured_as_they_are_in_float(ranges) -> None:
    torch.manual_seed(1)
    model = chain(ranges=ranges)
    batches = [torch.randn(50, 5) for _ in range(4)]
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    qs.calibrate(model, batches)
    seen = torch.cat(batches)
    inner = nn.functional.linear(seen, weight, bias)
    for layer, x in zip(model, (seen, inner), strict=True):
        # the two extremes are looked at once more than they occurred
        x = torch.cat([x.flatten(), x.aminmax().min[None], x.aminmax().max[None]])
        scale = layer.input_quantizer.scale.item()
        from_formula = {
            "mse": qs.mse_scale(x, qs.Grid(4, signed=True)).item(),
            "minmax": max(x.max().item() / 7, -x.min().item() / 8),
            "percentile": x.abs().sort().values[round(0.999 * len(x)) - 1].item() / 7,
            "lsq": 2 * x.abs().mean().item() / 7**0.5,
        }[ranges]
        assert scale == pytest.approx(from_formula, rel=1e-5)


def test_weight_scales_are_found_again() -> None:
    model = prepared_network()
    with torch.no_grad():
        model[0].weight.mul_(4)
    before = model[0].weight_quantizer.scale.item()
    qs.calibrate(model, [IMAGES])
    assert model[0].weight_quantizer.scale.item() == pytest.approx(4 * before, rel=1e-5)


def test_an_offset_is_found_where_it_is_learned() -> None:
    model = chain(learn_offset=True)
    x = torch.rand(200, 5) - 0.25
    qs.calibrate(model, [x])
    quantizer = model[0].input_quantizer
    assert quantizer.grid == qs.Grid(4, signed=False)
    assert quantizer.offset.item() == pytest.approx(-0.25, abs=1 / 15)
    assert (quantizer(x) - x).abs().mean() < 1 / 15


@pytest.mark.parametrize("learn_offset", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
def test_a_constant_input_is_met(value: float, learn_offset: bool) -> None:
    model = chain(learn_offset=learn_offset)
    x = torch.full((4, 5), value)
    qs.calibrate(model, [x])
    quantizer = model[0].input_quantizer
    torch.testing.assert_close(quantizer(x), x, rtol=1e-3, atol=0)
    assert model(x).isfinite().all()
    if value == 0:
        assert quantizer.scale.item() == 1


def test_extremes_of_large_batches_are_not_overlooked() -> None:
    model = qs.prepare(
        nn.Linear(1000, 1), weights_only(first_input_bits=8, ranges="minmax"), torch.ones(1, 1000)
    )
    batches = [torch.rand(700, 1000) for _ in range(12)]  # far more than is kept of them
    batches[3][311, 417], batches[11][0, 1] = 40.0, -16.0
    qs.calibrate(model, batches)
    assert model.input_quantizer.grid.signed
    assert model.input_quantizer.scale.item() == pytest.approx(40 / 127)


def test_reads_at_most_count_batches_and_takes_tuples() -> None:
    one, two = chain(), chain()
    two.load_state_dict(one.state_dict())
    batches = torch.randn(6, 8, 5)
    stream = iter([(batch, "label") for batch in batches])
    qs.calibrate(one, stream, count=4)
    qs.calibrate(two, batches[:4])
    assert len(list(stream)) == 2
    assert torch.equal(one[1].input_quantizer.scale, two[1].input_quantizer.scale)


def test_nothing_but_quantizers_moves() -> None:
    model = prepared_network(act_bits=4)
    model[1].eval()
    before = state(model)
    qs.calibrate(model, [IMAGES * 3])
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"3.input_quantizer.scale", "6.input_quantizer.scale"}
    assert [m.training for m in model.children()] == [True, False, *[True] * 5]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], NothingToDoError, "batches is empty"),
        ([IMAGES, IMAGES[:, :2]], RuntimeError, "channels"),
        ([IMAGES, "a file"], TypeError, "a batch must be"),
        ([IMAGES, IMAGES * torch.nan], DivergedError, r"3\.input got NaN or inf"),
        ([IMAGES, IMAGES * torch.inf], DivergedError, r"3\.input got NaN or inf"),
    ],
)
def test_what_fails_changes_nothing(batches, error: type, message: str) -> None:
    model = prepared_network(act_bits=4)
    before = state(model)
    with pytest.raises(error, match=message):
        qs.calibrate(model, batches)
    assert_as_before(model, before)
    model(IMAGES)


def test_a_layer_that_no_batch_reaches_is_named() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x)) if x.sum() < 0 else self.one(x)

    model = qs.prepare(Forked(), weights_only(act_bits=4), -torch.ones(1, 3))
    with pytest.raises(NotCalibratedError, match=r"no batch reached two\.input"):
        qs.calibrate(model, [torch.ones(1, 3)])
    qs.calibrate(model, [torch.ones(1, 3), -torch.ones(1, 3)])


def test_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"count`? must be at least 1 batch, got 0"):
        qs.calibrate(chain(), [torch.ones(1, 5)], count=0)


def test_a_float_model_is_refused() -> None:
    with pytest.raises(NothingToDoError, match=r"call quiesce\.prepare first"):
        qs.calibrate(small_network(), [IMAGES])


def test_a_network_is_calibrated_before_it_is_used() -> None:
    model = chain()
    with pytest.raises(NotCalibratedError, match=r"0\.input has no scale yet"):
        model(torch.ones(1, 5))
    assert qs.calibrate(model, [torch.ones(1, 5)]) is model
    model(torch.ones(1, 5))
