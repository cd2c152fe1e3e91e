"""`residual="quantized"` in networks that also add boxes: those additions stay as they are."""

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import PrepareError
from quiesce.quantization.quantized_additions import QuantizedBlock
from support.detectors import detector


def scheme(**changes: object) -> qs.Scheme:
    return qs.Scheme(weight_bits=8, act_bits=8, residual="quantized", **changes)


def blocks(model: nn.Module) -> set[str]:
    """Names of modules of which an addition is on grids."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, QuantizedBlock) and len(module.additions)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adding"),
    [
        ("ssdlite320_mobilenet_v3_large", "detector.backbone.features"),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "detector.backbone"),
    ],
)
def test_a_detector_trains_with_quantized_additions(name: str, adding: str) -> None:
    model, images = detector(name), torch.rand(2, 3, 64, 64)
    qs.prepare(model, scheme(), images)
    assert blocks(model)
    assert all(block.startswith(adding) for block in blocks(model))
    qs.calibrate(model, [images])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum(model.train()(images).values())
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    model.eval()(images)
    assert not blocks(qs.strip(model))


class Mixed(nn.Module):
    """Adds activations, and boxes a different number of times in training."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        y = self.two(y + x)
        boxes = self.head(y)
        for _ in range(3 if self.training else 1):
            boxes = boxes + torch.ones(4, 4)
        return boxes


class Around(nn.Module):
    """A block that adds around one whose additions stay in float."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Mixed(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x) + x)


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def test_modules_that_add_are_selected_by_pattern() -> None:
    model = qs.calibrate(qs.prepare(Around(), scheme(), X), [X])
    assert blocks(model) == {"", "inner"}
    with pytest.raises(PrepareError, match=r"residual_exclude=\['inner'\]"):
        model.train()(X)
    for choice in ({"residual_exclude": ["inner"]}, {"residual_include": [""]}):
        model = qs.calibrate(qs.prepare(Around(), scheme(**choice), X), [X])
        assert blocks(model) == {""}
        model.train()(X).sum().backward()
        assert model.additions[0].left.scale.grad is not None
        plain = qs.strip(model)
        assert type(plain.inner) is Mixed
        plain.train()(X)


def test_patterns_of_additions_that_match_nothing_are_refused() -> None:
    with pytest.raises(PrepareError, match=r"residual_exclude: 'iner' matches no module that adds"):
        qs.prepare(Around(), scheme(residual_exclude=["iner"]), X)
    with pytest.raises(TypeError, match="residual_exclude must be a sequence"):
        scheme(residual_exclude="inner")


def test_additions_of_positions_and_of_outputs_stay_in_float() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.side = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.register_buffer("places", torch.rand(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x) + self.places
            return self.two(y) + self.side(y)

    model = qs.prepare(Positions(), scheme(), X)
    assert not blocks(model)
