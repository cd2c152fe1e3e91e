"""Compiled kernels: the same numbers, few of them, and compiled once."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.arithmetic import weight_passes
from quiesce.arithmetic.fake_quantize import quantize_backward, quantize_forward
from quiesce.arithmetic.fused import fused
from quiesce.arithmetic.kernels import EAGER, FUSED
from quiesce.quantization.quantizer import FakeQuantizer

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning:torch"
    ),
    pytest.mark.xdist_group("compiled"),  # the kernels of one test serve the others
]


class Small(nn.Module):
    """Three kinds of convolution, batch norm, a residual, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.pointwise(self.norm(self.depthwise(x)).relu())
        return self.head(x.mean((2, 3)))


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))


def prepared(mode: str, **scheme: object) -> nn.Module:
    torch.manual_seed(0)
    model = qs.prepare(Small(), qs.Scheme(**{"weight_bits": 3, "act_bits": 3, **scheme}), images(2))
    return qs.compile(qs.calibrate(model, [images(8)]), mode)


def training(model: nn.Module) -> tuple[qs.Control, Callable[[Tensor], float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    noise = torch.Generator().manual_seed(1)
    weights = qs.quantized_weights(model)
    cures = [
        qs.Freezing(qs.linear(0.05, 0.01, 20), max_frozen=None),
        qs.Dampening(qs.cosine(0.0, 1e-3, 20)),
    ]
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, 0.1), cures)

    def step(x: Tensor) -> float:
        loss = cross_entropy(model(x), torch.arange(len(x)) % 4) + control.penalty()
        loss.backward()
        for weight in weights:  # noise enough that codes go back and forth, and get frozen
            assert weight.latent.grad is not None
            weight.latent.grad += torch.randn(weight.latent.shape, generator=noise)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return control, step


PASSES = (
    quantize_forward,
    quantize_backward,
    *(weight_passes.settle, weight_passes.track, weight_passes.pull, weight_passes.pull_gradient),
)


def kernels_made() -> int:
    """How many kernels there are; each is compiled once and stays."""
    return sum(len(fused(function).made) for function in PASSES)


def graphs() -> int:
    """How much has been compiled: kernels, and whole models."""
    return kernels_made() + counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize(
    ("bits", "channels", "dtype"),
    [
        (3, False, torch.float32),
        pytest.param(8, True, torch.float32, marks=pytest.mark.slow),
        pytest.param(3, True, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(8, False, torch.float16, marks=pytest.mark.slow),
    ],
)
def test_a_fused_quantizer_gives_the_bits_of_the_eager_one(bits, channels, dtype):
    latent = torch.randn(6, 4, 3, 3)
    shape = (6, 1, 1, 1) if channels else ()
    quantizer = FakeQuantizer(bits, scale_shape=shape, weight=latent)
    quantizer.set_grid(qs.Grid(bits, signed=True), torch.rand(shape) * 0.3 + 0.05)
    weight = qs.QuantizedWeight("w", nn.Parameter(latent), quantizer, nn.Identity())
    weight.freeze(torch.rand_like(latent) < 0.3, torch.ones_like(latent))
    outcomes = []
    for kernels in (EAGER, FUSED):
        quantizer.kernels = kernels
        x = latent.to(dtype).requires_grad_()
        quantizer.scale.grad = None
        y = quantizer(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape))
        outcomes.append((y, x.grad, quantizer.scale.grad))
    (y, grad_x, grad_scale), (fused_y, fused_grad_x, fused_grad_scale) = outcomes
    assert fused_y.dtype == dtype
    assert torch.equal(fused_y, y)
    assert torch.equal(fused_grad_x, grad_x)
    # a sum of 36 or 216 terms of size below 2^bits, in another order
    torch.testing.assert_close(fused_grad_scale, grad_scale, rtol=1e-5, atol=1e-5 * 2**bits)


def test_an_offset_and_a_channels_last_input_stay_what_they_are():
    x = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)
    quantizer = FakeQuantizer(4, learn_offset=True)
    quantizer.set_grid(qs.Grid(4, signed=False), torch.tensor(0.3), torch.tensor(-2.0))
    eager = quantizer(x)
    quantizer.kernels = FUSED
    fused = quantizer(x)
    assert torch.equal(fused, eager)
    assert fused.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_are_decided_in_float32_under_autocast(dtype):
    x, scale = torch.tensor([1.4999]), torch.tensor(1.0)
    assert x.to(dtype) == 1.5  # which would round to 2
    quantizer = FakeQuantizer(4)
    quantizer.set_grid(qs.Grid(4, signed=False), scale)
    for kernels in (EAGER, FUSED):
        quantizer.kernels = kernels
        with torch.autocast("cpu", dtype=dtype):
            assert quantizer(x).tolist() == [1.0]
            assert quantizer(x.to(dtype)).dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [False, True])
def test_training_with_fused_quantizers_takes_the_same_steps(per_channel):
    runs = []
    for mode in ("off", "quantizers"):
        model = prepared(mode, per_channel=per_channel)
        control, step = training(model)
        losses = [step(images(8)) for _ in range(6)]
        runs.append((losses, control.tracker.summary()))
    (losses, summary), (fused_losses, fused_summary) = runs
    assert fused_losses == pytest.approx(losses, rel=1e-4)
    assert fused_summary.total_oscillations == summary.total_oscillations
    assert fused_summary.frozen == summary.frozen


@pytest.mark.slow
def test_nothing_is_compiled_again_after_the_second_step():
    model = prepared("quantizers")
    control, step = training(model)
    for _ in range(2):
        step(images(8))
    compiled = graphs()
    for turn in range(8):
        step(images(8 if turn % 3 else 5))
        model.eval()
        with torch.no_grad():
            model(images(7))
        model.train()
    assert control.tracker.summary().frozen > 0
    assert graphs() == compiled


@pytest.mark.slow
def test_a_whole_model_is_compiled_once_for_training_and_once_for_evaluation():
    model = prepared("model")
    control, step = training(model)
    for _ in range(2):
        step(images(8))
    model.eval()
    with torch.no_grad():
        model(images(8))
    model.train()
    compiled = graphs()
    for turn in range(14):
        step(images(8 - turn % 6))  # 3 at the least
        model.eval()
        with torch.no_grad():
            model(images(6 + turn % 8))
        model.train()
    assert control.tracker.summary().frozen > 0
    assert graphs() == compiled


@pytest.mark.slow
def test_the_whole_model_trains_like_its_parts():
    runs = []
    for mode in ("off", "model"):
        _, step = training(prepared(mode))
        runs.append([step(images(8)) for _ in range(4)])
    assert runs[1] == pytest.approx(runs[0], rel=1e-3)


@pytest.mark.slow
def test_the_number_of_kernels_does_not_grow_with_the_layers():
    fused.cache_clear()
    counts = []
    for depth in (3, 12):
        layers = [
            nn.Conv2d(3 if i == 0 else 4 + i % 3, 4 + (i + 1) % 3, 3, padding=1)
            for i in range(depth)
        ]
        model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        qs.compile(
            qs.calibrate(qs.prepare(model, qs.Scheme(), images(2)), [images(2)]), "quantizers"
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        weights = qs.quantized_weights(model)
        tracker, cures = qs.OscillationTracker(weights), [qs.Dampening(1e-3)]
        control = qs.Control(optimizer, weights, tracker, cures)
        for _ in range(2):
            (model(images(2)).sum() + control.penalty()).backward()
            optimizer.step()
        counts.append(kernels_made())
    assert counts[0] == counts[1]
    # weights of 4 and of 8 bits and activations, forward and backward: 6; two passes of the
    # tracker and two of dampening over records of two widths: 8
    assert counts[1] == 14


REAL = (
    "test_vit",
    *("mobilenetv3_small_100", "resnet18", "vit_tiny_patch16_224"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", *REAL],
)
def test_no_graph_break(name):
    model = timm.create_model(name)
    x = torch.randn(2, 3, *model.pretrained_cfg["input_size"][1:] if "vit" in name else (64, 64))
    qs.calibrate(qs.prepare(model, qs.Scheme(ranges="minmax"), x), [x])
    explanation = torch._dynamo.explain(model.train())(x)
    assert explanation.graph_break_count == 0, explanation.break_reasons
    assert explanation.graph_count == 1


def test_a_step_passes_once_over_the_latents_of_all_layers():
    seen: list[int] = []

    def counting(
        function: Callable[..., Tensor], now: weight_passes.Operands, *args: Tensor
    ) -> Tensor:
        seen.append(now.latent.numel())
        return function(now, *args)

    model = prepared("off")
    control, step = training(model)
    step(images(8))
    for weight in control.weights:
        weight._quantizer.kernels = EAGER._replace(over_weights=counting)
    before = control.tracker.steps
    control.tracker.step()
    assert control.tracker.steps == before + 1
    sizes = [
        len(block) for group in control.tracker.groups for block in control.tracker.blocks(group)
    ]
    assert len(sizes) == 2  # of the layers with 3 bits and of those with 8
    assert sorted(seen) == sorted(sizes)
    seen.clear()
    strong = qs.Dampening(0.1)
    strong.attach(control.weights, control.tracker)
    strong.penalty(0).backward()
    assert sorted(seen) == sorted(2 * sizes)  # once forward, once backward


def test_the_forward_saves_nothing_but_its_inputs():
    quantizer = FakeQuantizer(4)
    quantizer.set_grid(qs.Grid(4, signed=False), torch.tensor(0.1))
    x = torch.rand(50, requires_grad=True)
    saved: list[Tensor] = []
    for kernels in (EAGER, FUSED):
        quantizer.kernels = kernels
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (saved.append(t), t)[1], lambda t: t
        ):
            quantizer(x)
        storages = {tensor.data_ptr() for tensor in saved}
        known = {x.data_ptr(), quantizer.scale.data_ptr(), quantizer.limits.data_ptr()}
        assert storages <= known
        saved.clear()


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"off.*quantizers.*model.*got 'fast'"):
        qs.compile(prepared("off"), "fast")
    with pytest.raises(qs.QuiesceError, match=r"call quiesce\.prepare first"):
        qs.compile(Small(), "quantizers")


def test_without_a_compiler_it_is_said_and_nothing_has_changed(tmp_path):
    model = prepared("off")
    with torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}):
        for mode in ("quantizers", "model"):
            with pytest.raises(qs.QuiesceError, match=r'install g\+\+ or clang .* mode "off"'):
                qs.compile(model, mode)
    assert qs.compile(model, "off")(images(2)).shape == (2, 4)
