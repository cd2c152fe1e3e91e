"""What the published code of the paper computes, held array by array.

The file holds random inputs and what that code made of them on a CPU in float32, under keys
that are paths. Its path is in QUIESCE_REFERENCE, or it is tests/golden/reference.npz; sizes, bits
and numbers of cases are read from the file, so that another draw of the same arrays does too.
Codes and masks are exact, floats 1e-6 relative, sums of floats 1e-5. All of it holds in every
compile mode.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.quantization.compile import CompileMode
from quiesce.quantization.quantizer import FakeQuantizer
from support.small_networks import Walk, weights_only

FILE = Path(os.environ.get("QUIESCE_REFERENCE", Path(__file__).parent / "golden" / "reference.npz"))
with np.load(FILE) as archive:
    REFERENCE = {key: archive[key] for key in archive}

ENDS = {"quant_min", "quant_max"}
TRACKER = {"latent", "scale", *ENDS, "momentum", "threshold", "integer_ema"}
TRACKER |= {"frequency", "code", "frozen", "total_oscillations"}
HELD = {
    "fakequant": {"x", "upstream", "scale", *ENDS, "y", "grad_x", "grad_scale"},
    "mse_init": {"x", "scale", "mse"},
    "tracker": TRACKER | {"frozen_code"},
    "dampening": {"w", "scale", *ENDS, "loss", "grad_w"},
    "bn": {"x", "weight", "weight_scale", "input_scale", "input_quant_min", "input_quant_max"}
    | {"running_mean", "running_var"},
}
"""Family of cases to the arrays of a case, each of which is read by the tests below."""


def cases(family: str) -> list[str]:
    """Prefixes of the cases of a family."""
    found = {key.rpartition("/")[0] for key in REFERENCE if key.startswith(f"{family}/")}
    assert found, f"{FILE} has no case of {family}"
    return sorted(found)


def case(prefix: str) -> dict[str, Tensor]:
    """The arrays of a case, by their last name."""
    names = [key for key in REFERENCE if key.rpartition("/")[0] == prefix]
    return {name.rpartition("/")[2]: torch.tensor(REFERENCE[name]) for name in names}


@pytest.fixture(autouse=True)
def _compiled_anew() -> None:
    """Forget what is compiled: of one piece of code torch compiles eight versions, no more."""
    torch.compiler.reset()


SLOW = pytest.mark.slow
QUICK = ("fakequant", 0)


def in_every_mode(family: str) -> pytest.MarkDecorator:
    """Every case without compiling; every third in each compile mode, which is slow but for one."""
    pairs = [
        pytest.param(prefix, mode, marks=[] if mode == "off" or (family, i) == QUICK else SLOW)
        for i, prefix in enumerate(cases(family))
        for j, mode in enumerate(("quantizers", "model", "off"))
        if mode == "off" or i % 3 == j
    ]
    return pytest.mark.parametrize(("prefix", "mode"), pairs)


def grid_of(low: Tensor, high: Tensor) -> qs.Grid:
    """The grid whose ends these are."""
    grid = qs.Grid(round(float(high - low + 1)).bit_length() - 1, signed=bool(low < 0))
    assert (grid.quant_min, grid.quant_max) == (low, high)
    return grid


def test_every_array_is_held() -> None:
    for key in REFERENCE:
        family, _, rest = key.partition("/")
        if family != "schedule":
            assert rest.rpartition("/")[2] in HELD[family], key
    for family, names in HELD.items():
        assert {name for prefix in cases(family) for name in case(prefix)} == names


@pytest.mark.parametrize("prefix", cases("fakequant"))
def test_fake_quantization_and_its_gradients(prefix: str) -> None:
    data = case(prefix)
    x, scale = data["x"].requires_grad_(), data["scale"].requires_grad_()
    grid = grid_of(data["quant_min"], data["quant_max"])
    # the reference clips after rounding, with a clamp that gives no gradient at its bounds
    learned = "lsq" if prefix.endswith("_gradscale") else None
    y = qs.fake_quantize(x, scale, grid, clip="round", grad_scale=learned)
    assert_as_in_reference(y, x, scale, grid, data, learned=learned is not None)


@in_every_mode("fakequant")
def test_a_quantizer_and_its_gradients(prefix: str, mode: CompileMode) -> None:
    data, learned = case(prefix), prefix.endswith("_gradscale")
    x = data["x"].requires_grad_()
    grid = grid_of(data["quant_min"], data["quant_max"])
    quantizer = FakeQuantizer(
        grid.bits, scale_shape=data["scale"].shape, weight=x, clip="round", grad_scaling=learned
    )
    quantizer.set_grid(grid, data["scale"])
    y = qs.compile(nn.Sequential(quantizer), mode)(x)
    assert_as_in_reference(y, x, quantizer.scale, grid, data, learned=learned)


def assert_as_in_reference(
    y: Tensor, x: Tensor, scale: Tensor, grid: qs.Grid, data: dict[str, Tensor], *, learned: bool
) -> None:
    y.backward(data["upstream"])
    codes, expected_codes = (y / scale).round(), (data["y"] / scale).round()
    assert torch.equal(codes, expected_codes)
    torch.testing.assert_close(y, data["y"], rtol=1e-6, atol=0)
    torch.testing.assert_close(x.grad, data["grad_x"], rtol=1e-6, atol=0)
    assert x.grad is not None
    assert scale.grad is not None
    # a sum that cancels is no more exact than float32 is for the sum of its terms' magnitudes
    terms = (data["upstream"].abs() * (codes.abs() + 1)).sum_to_size(scale.shape)
    shared_by = x.numel() // scale.numel()
    factor = (shared_by * grid.quant_max) ** -0.5 if learned else 1.0
    error = (scale.grad - data["grad_scale"]).abs()
    rounding = torch.finfo(torch.float32).eps * factor * terms
    assert (error <= 1e-5 * data["grad_scale"].abs() + rounding).all()


@pytest.mark.parametrize("prefix", cases("mse_init"))
def test_mse_scale_is_as_good(prefix: str, record_property: Any) -> None:
    data = case(prefix)
    bits = int(prefix.partition("/b")[2].partition("_")[0])
    grid = qs.Grid(bits, signed=prefix.endswith("_weight"))

    def error(scale: Tensor) -> float:
        rounded = qs.fake_quantize(data["x"], scale, grid)
        return (rounded - data["x"]).double().square().mean().item()

    # the reference's own error at its own scale: a mean of float32
    assert error(data["scale"]) == pytest.approx(data["mse"].item(), rel=1e-5)
    ratio = error(qs.mse_scale(data["x"], grid)) / data["mse"].item()
    record_property("mse_ratio", ratio)
    assert ratio <= 1.02


def walk_of(data: dict[str, Tensor], model: nn.Module, **options: Any) -> Walk:
    """The prepared model with the scale of the case, and the cure of the case, if it has one."""
    for module in model.modules():
        if hasattr(module, "weight_quantizer"):
            module.weight_quantizer.scale.data.fill_(data["scale"].item())
    cures = []
    if "frozen_code" in data:  # a threshold of 0 is off: freezing must not act at that step
        average = "code" if data["integer_ema"] else None
        cures = [
            qs.Freezing(
                lambda step: data["threshold"][step].item(), average=average, max_frozen=None
            )
        ]
    return Walk(model, cures, momentum=data["momentum"].item(), **options)


@in_every_mode("tracker")
def test_frequencies_and_frozen_codes_at_every_step(prefix: str, mode: CompileMode) -> None:
    data = case(prefix)
    steps, count = data["latent"].shape
    grid = grid_of(data["quant_min"], data["quant_max"])
    layer = nn.Linear(count, 1, bias=False)
    scheme = weights_only(weight_bits=grid.bits)
    model = qs.compile(qs.prepare(layer, scheme, torch.zeros(1, count)), mode)
    walk = walk_of(data, model)
    [weight] = walk.weights
    assert weight.grid == grid
    for step in range(steps):
        weight.latent.data.copy_(data["latent"][step])
        assert torch.equal(weight.codes()[0], data["code"][step].to(torch.int8)), step
        walk.optimizer.step()
        # a running sum of up to `steps` float32 terms, there and here: a sum's 1e-5
        frequency = walk.tracker.frequency(weight.name)[0]
        torch.testing.assert_close(frequency, data["frequency"][step], rtol=1e-5, atol=0)
        assert torch.equal(weight.frozen[0], data["frozen"][step]), step
    if "frozen_code" in data:
        frozen = data["frozen"][-1]
        pinned = data["frozen_code"].to(torch.int8)
        assert torch.equal(weight.codes()[0][frozen], pinned[frozen])
    else:
        assert not data["frozen"].any()
        assert not data["threshold"].any()


@in_every_mode("tracker")
def test_total_oscillations_of_every_weight(prefix: str, mode: CompileMode) -> None:
    data = case(prefix)
    steps, count = data["latent"].shape
    grid = grid_of(data["quant_min"], data["quant_max"])

    class Weights(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            return sum(layer(x) for layer in self)

    # a report counts by layer, so here every weight is a layer
    model = Weights(nn.Linear(1, 1, bias=False) for _ in range(count))
    qs.compile(qs.prepare(model, weights_only(weight_bits=grid.bits), torch.zeros(1, 1)), mode)
    walk = walk_of(data, model, distance=None)
    for step in range(steps):
        walk.to(*data["latent"][step])
    totals = [report.total_oscillations for report in walk.tracker.report()]
    assert totals == data["total_oscillations"].tolist()


@in_every_mode("dampening")
def test_penalty_and_its_gradient(prefix: str, mode: CompileMode) -> None:
    data = case(prefix)
    per, _, aggregation = prefix.partition("/")[2].partition("_")
    grid = grid_of(data["quant_min"], data["quant_max"])
    out_channels, in_channels, *kernel = data["w"].shape
    layer = nn.Conv2d(in_channels, out_channels, tuple(kernel), bias=False)
    layer.weight.data.copy_(data["w"])
    scheme = weights_only(weight_bits=grid.bits, per_channel=per == "pc")
    qs.compile(qs.prepare(layer, scheme, torch.zeros(1, in_channels, *kernel)), mode)
    layer.weight_quantizer.scale.data.copy_(data["scale"])
    walk = Walk(layer, [qs.Dampening(1.0, aggregation)])
    penalty = walk.control.penalty()
    penalty.backward()
    torch.testing.assert_close(penalty, data["loss"], rtol=1e-5, atol=0)
    # latent minus code: what is left of two numbers as large as the latent
    rounding = 1e-6 * data["grad_w"].abs().max().item()
    torch.testing.assert_close(layer.weight.grad, data["grad_w"], rtol=1e-6, atol=rounding)
    assert layer.weight_quantizer.scale.grad is None


@pytest.mark.parametrize("key", [key for key in REFERENCE if key.startswith("schedule/")])
def test_schedule_at_every_step(key: str) -> None:
    start, end, begin = (float(part) for part in key.partition("/")[2].split("_"))
    expected = REFERENCE[key]
    schedule = qs.cosine(start, end, total=len(expected), begin=begin)
    values = [schedule(step) for step in range(len(expected))]
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=0)


@in_every_mode("bn")
def test_reestimated_statistics(prefix: str, mode: CompileMode) -> None:
    data = case(prefix)
    channels, inputs, *kernel = data["weight"].shape
    grid = grid_of(data["input_quant_min"], data["input_quant_max"])
    model = nn.Sequential(
        nn.Conv2d(inputs, channels, tuple(kernel), padding=kernel[0] // 2, bias=False),
        nn.BatchNorm2d(channels),
    )
    model[0].weight.data.copy_(data["weight"])
    scheme = weights_only(weight_bits=4, first_input_bits=grid.bits)
    qs.compile(qs.prepare(model, scheme, data["x"][0]), mode)
    qs.calibrate(model, data["x"])
    assert model[0].input_quantizer.grid == grid
    model[0].input_quantizer.scale.data.copy_(data["input_scale"])
    model[0].weight_quantizer.scale.data.copy_(data["weight_scale"])

    qs.reestimate_batchnorm(model, data["x"], count=len(data["x"]))
    spread = 1e-6 * data["running_var"].sqrt().max().item()  # a mean near 0 is a sum that cancels
    torch.testing.assert_close(model[1].running_mean, data["running_mean"], rtol=1e-5, atol=spread)
    torch.testing.assert_close(model[1].running_var, data["running_var"], rtol=1e-5, atol=0)
