"""What a loop leaves out is told, once, and a loop that leaves out nothing is told nothing."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import quiesce as qs
from quiesce.cures import omissions
from support.small_networks import prepared_network

IMAGES = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def loop(cures: Sequence[qs.Cure]) -> tuple[torch.nn.Module, torch.optim.Optimizer, qs.Control]:
    model = prepared_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    weights = qs.quantized_weights(model)
    return model, optimizer, qs.Control(optimizer, weights, qs.OscillationTracker(weights), cures)


def step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, penalty: Tensor | float = 0.0
) -> None:
    (model(IMAGES).square().mean() + penalty).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_penalty_that_is_left_out_is_told_once() -> None:
    model, optimizer, control = loop([qs.Freezing(0.1), qs.Dampening(0.1)])
    assert control.penalty_missing
    with pytest.warns(UserWarning, match=r"control\.penalty\(\)"):
        step(model, optimizer)
    step(model, optimizer)  # a second warning would be an error


def test_cures_without_a_penalty_need_no_call() -> None:
    model, optimizer, control = loop([qs.Freezing(0.1)])
    assert not control.penalty_missing
    step(model, optimizer)


def test_a_penalty_that_is_used_is_not_missing() -> None:
    model, optimizer, control = loop([qs.Dampening(0.1)])
    step(model, optimizer, control.penalty())
    assert not control.penalty_missing
    step(model, optimizer)  # left out on purpose


def test_an_optimizer_that_goes_on_without_the_state_of_its_control_is_told() -> None:
    model, optimizer, control = loop([qs.Dampening(0.1)])
    for _ in range(3):
        step(model, optimizer, control.penalty())
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), control.state_dict()))

    def resume(*, with_control: bool) -> None:
        model, optimizer, control = loop([qs.Dampening(0.1)])
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        if with_control:
            control.load_state_dict(saved[2])
        step(model, optimizer, control.penalty())

    with pytest.warns(UserWarning, match=r"taken 3 steps .* control\.load_state_dict"):
        resume(with_control=False)
    resume(with_control=True)


def test_an_optimizer_that_never_steps_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omissions, "WITHOUT_STEP", 5)
    _, _, control = loop([qs.Dampening(0.1)])
    for _ in range(4):
        control.penalty()
    with pytest.warns(UserWarning, match="5 times before the first optimizer step"):
        control.penalty()
    control.penalty()
