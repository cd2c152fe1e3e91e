"""What other people's loops do to a model: empty batches, activation checkpointing, new heads."""

import copy
import logging
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import quiesce as qs
from quiesce.errors import NotCalibratedError
from support.small_networks import small_network, weights_only

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def mlp(**changes: object) -> nn.Sequential:
    """Three prepared linear layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    qs.prepare(model, weights_only(**changes), torch.ones(2, 8))
    return qs.calibrate(model, [torch.randn(16, 8)])


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("off", {}),
        ("off", {"grad_scaling": True}),
        ("off", {"learn_offset": True}),
        pytest.param("quantizers", {}, marks=pytest.mark.slow),
    ],
)
def test_an_empty_batch_passes_and_teaches_nothing(mode: str, changes: dict) -> None:
    model = mlp(act_bits=4, per_channel=True, **changes)
    qs.compile(model, mode)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Dampening(0.0)])
    before = copy.deepcopy(model.state_dict())
    output = model(torch.zeros(0, 8))
    assert output.shape == (0, 4)
    (output.sum() + control.penalty()).backward()
    optimizer.step()
    state = model.state_dict()
    assert all(torch.equal(state[n], v) for n, v in before.items() if "history" not in n)
    assert model.eval()(torch.zeros(0, 8)).shape == (0, 4)


def test_calibration_takes_an_empty_batch_among_others() -> None:
    model, batch = mlp(act_bits=4), torch.randn(16, 8)
    expected = copy.deepcopy(qs.calibrate(model, [batch]).state_dict())
    qs.calibrate(model, [torch.zeros(0, 8), batch, torch.zeros(0, 8)])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    with pytest.raises(NotCalibratedError, match="no batch reached"):
        qs.calibrate(model, [torch.zeros(0, 8)])


class Checkpointed(nn.Module):
    """A module that computes its activations again in the backward pass."""

    def __init__(self, inner: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.inner(x)
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu() + x) + x


def network(wrapped: str, reentrant: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), Residual(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
    )
    if wrapped == "a layer":
        model[1].one = Checkpointed(model[1].one, reentrant)
    elif wrapped == "a block":
        model[1] = Checkpointed(model[1], reentrant)
    elif wrapped == "all but the stem":
        model = nn.Sequential(model[0], Checkpointed(nn.Sequential(*model[1:]), reentrant))
    return model


def trained(model: nn.Module, scheme: qs.Scheme) -> tuple[list[Tensor], qs.OscillationTracker]:
    """Parameters after a few steps, and the tracker."""
    qs.calibrate(qs.prepare(model, scheme, X), [X])
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.2, max_frozen=None)])
    torch.manual_seed(1)
    for step in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), (torch.arange(4) + step) % 5)
        (loss + control.penalty()).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()], tracker


ESTIMATORS = (qs.STE(), qs.StochasticRounding(), qs.Hysteresis())
WRAPPED = ("a layer", "a block", "all but the stem")


def checkpointing(estimator: qs.Estimator) -> qs.Scheme:
    return qs.Scheme(weight_bits=3, act_bits=4, estimator=estimator, residual="quantized")


@cache
def without_checkpoints(estimator: qs.Estimator) -> tuple[list[Tensor], qs.OscillationTracker]:
    return trained(network("nothing", reentrant=False), checkpointing(estimator))


@pytest.mark.parametrize(
    ("estimator", "wrapped", "reentrant"),
    [
        pytest.param(estimator, wrapped, (i + j) % 2 == 1, marks=pytest.mark.slow if j > i else ())
        for i, estimator in enumerate(ESTIMATORS)
        for j, wrapped in enumerate(WRAPPED)
    ],
)
def test_checkpointed_activations_change_nothing(
    estimator: qs.Estimator, wrapped: str, reentrant: bool
) -> None:
    expected, one = without_checkpoints(estimator)
    found, two = trained(network(wrapped, reentrant), checkpointing(estimator))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert two.summary().total_oscillations == one.summary().total_oscillations
    assert two.summary().flips_per_step > 0


def test_a_model_that_checkpoints_by_itself_is_prepared() -> None:
    torch.manual_seed(0)
    model = torchvision.models.densenet.DenseNet(4, (2, 2), 8, num_classes=3, memory_efficient=True)
    images = torch.rand(2, 3, 32, 32)
    qs.calibrate(qs.prepare(model, qs.Scheme(), images), [images])
    model.train()(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def headless(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(head)}


@pytest.mark.parametrize("act_bits", [None, 4])
def test_a_quantized_backbone_goes_under_a_new_head(act_bits: int | None) -> None:
    scheme = weights_only(act_bits=act_bits)
    old = qs.calibrate(qs.prepare(small_network(), scheme, X), [X])
    new = small_network()
    new[6] = nn.Linear(64, 9)
    qs.calibrate(qs.prepare(new, scheme, X), [X])
    head = {name: value.clone() for name, value in new[6].state_dict().items()}
    loaded = new.load_state_dict(headless(old.state_dict(), "6."), strict=False)
    assert all(name.startswith("6.") for name in loaded.missing_keys)
    assert new.eval()(X).shape == (4, 9)  # the head keeps its scales
    assert all(torch.equal(new[6].state_dict()[name], value) for name, value in head.items())
    assert torch.equal(new[:6].eval()(X), old[:6].eval()(X))
    qs.strip(new)


def test_a_float_backbone_under_a_new_head_asks_for_scales_of_the_backbone_alone() -> None:
    new = qs.prepare(small_network(), weights_only(), X)
    head = new[6].weight_quantizer.scale.clone()
    new.load_state_dict(headless(small_network().state_dict(), "6."), strict=False)
    with pytest.raises(NotCalibratedError, match=r"0\.weight has no scale.*measure_weights"):
        new(X)
    assert new[6].weight_quantizer.grid is not None
    qs.measure_weights(new)
    assert new(X).shape == (4, 5)
    assert torch.equal(new[6].weight_quantizer.scale, head)


def test_a_head_of_another_size_is_refused_by_name() -> None:
    old = qs.prepare(small_network(), weights_only(), X)
    new = small_network()
    new[6] = nn.Linear(64, 9)
    qs.prepare(new, weights_only(), X)
    with pytest.raises(RuntimeError, match=r"size mismatch for 6\.weight"):
        new.load_state_dict(old.state_dict(), strict=False)


@pytest.mark.parametrize("when", ["before the control", "after the control"])
def test_float_weights_that_come_after_prepare_are_noticed_once(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    weights = qs.quantized_weights(model)

    def load() -> None:
        with torch.no_grad():  # as loaders do that assign or copy tensors one by one
            model[0].weight.mul_(0.1)
            model[2].weight.data.mul_(5)

    if when == "before the control":
        load()
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    if when == "after the control":
        assert not caplog.records
        load()
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.randn(16, 8)).square().mean() + control.penalty()).backward()
        optimizer.step()
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "0, 2" in record.getMessage()
    assert "quiesce.measure_weights" in record.getMessage()


@pytest.mark.parametrize(
    "mend", [qs.measure_weights, lambda m: qs.calibrate(m, [torch.ones(2, 8)])]
)
def test_measured_anew_the_scales_fit(mend, caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    model[0].weight.data.mul_(0.1)
    mend(model)
    weights = qs.quantized_weights(model)
    qs.Control(torch.optim.SGD(model.parameters(), lr=1), weights, qs.OscillationTracker(weights))
    assert not caplog.records


def test_scales_of_a_checkpoint_are_not_doubted(caplog: pytest.LogCaptureFixture) -> None:
    old, model = mlp(), mlp()
    old[0].weight.data.mul_(0.1)
    model.load_state_dict(qs.calibrate(old, [torch.ones(2, 8)]).state_dict())
    weights = qs.quantized_weights(model)
    qs.Control(torch.optim.SGD(model.parameters(), lr=1), weights, qs.OscillationTracker(weights))
    assert not caplog.records


def test_tiny_scales_are_named_at_calibration(caplog: pytest.LogCaptureFixture) -> None:
    model = mlp(act_bits=4)
    model[2].weight.data.mul_(1e-9)
    qs.calibrate(model, [torch.randn(16, 8)])
    [record] = caplog.records
    assert "2.weight" in record.getMessage()
    assert "0.weight" not in record.getMessage()
