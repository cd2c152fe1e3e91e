"""`quiesce.Adapter`, and what an attached weight shares with ours."""

import copy
import inspect

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import AttachError, DivergedError, NothingToDoError, TrackingError
from support.messages import telling
from support.stacks import IMAGES, own_adapter, own_folded, own_network
from support.states import assert_same_state


def attached(**changes: object) -> tuple[nn.Module, list[qs.QuantizedWeight]]:
    model = own_network()
    return model, qs.attach(model, adapter=own_adapter(model, **changes))


def test_an_attached_weight_has_every_member_of_ours() -> None:
    """The class of ours is also the interface; what is new there needs a meaning here."""
    _, (weight, _) = attached()
    members = [name for name in vars(qs.QuantizedWeight) if not name.startswith("_")]
    assert len(members) > 25
    for name in members:
        value = getattr(weight, name)  # a member of ours would look for a quantizer of ours
        if callable(value) and not inspect.signature(value).parameters:
            value()


def test_a_scale_that_follows_its_weight_needs_hold_before_freezing() -> None:
    _, (weight, _) = attached(follows_weight=True)
    assert weight.codes().shape == weight.latent.shape
    with pytest.raises(AttachError, match=telling("3: ", "hold")):
        weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    held = []
    _, (weight, _) = attached(follows_weight=True, hold=lambda *given: held.append(given))
    weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    (name, scale, zero_point) = held[0]
    assert (name, len(held)) == ("3", 1)
    assert torch.equal(scale, weight.scale)
    assert float(zero_point) == 0.5


def test_values_that_are_not_on_the_grid_are_refused() -> None:
    with pytest.raises(AttachError, match=telling("3: ", "-3", "4")):
        attached(quantize=lambda name: torch.zeros(32, 288) + 0.01)
    with pytest.raises(AttachError, match=telling("3: ", "grid")):
        attached(grid=lambda name: qs.WeightGrid(torch.tensor(1e-4), -3, 4))


def test_what_the_adapter_can_not_do_is_named() -> None:
    model, weights = attached(converted=None)
    with pytest.raises(AttachError, match=telling("converted")):
        qs.audit(weights, own_folded(model))
    _, weights = attached(hook=None)
    with pytest.raises(AttachError, match=telling("3: ", "hook")):
        weights[0].on_output(lambda value: value)


def test_a_network_without_quantized_weights_is_named() -> None:
    with pytest.raises(NothingToDoError, match=telling("Linear", "quiesce.prepare", "Brevitas")):
        qs.attach(nn.Linear(2, 2))


def test_a_shared_weight_is_named() -> None:
    model = own_network()
    layer = model[3]
    adapter = own_adapter(
        model,
        params=lambda _: {"3": layer.weight, "5": layer.weight},
        quantize=lambda _: layer.quantizer(layer.weight),
        grid=lambda _: qs.WeightGrid(layer.quantizer.scale, -3, 4, 0.5),
    )
    with pytest.raises(AttachError, match=telling("5", "3", "share", "exclude=['5']")):
        qs.attach(model, adapter=adapter)


def test_a_network_is_attached_once() -> None:
    model, weights = attached()
    again = qs.attach(model, adapter=own_adapter(model))  # nothing is frozen: takes over
    frozen = torch.ones_like(again[0].latent, dtype=torch.bool)
    again[0].freeze(frozen, torch.full_like(again[0].latent, 2))
    with pytest.raises(AttachError, match=telling("3 ", "detach")):
        qs.attach(model, adapter=own_adapter(model))
    outputs = model[3].quantizer(model[3].weight)
    torch.testing.assert_close(outputs, 1.5 * model[3].quantizer.scale.expand(32, 288))
    again.detach()
    torch.testing.assert_close(model[3].quantizer(model[3].weight), outputs)
    assert qs.attach(model, adapter=own_adapter(model))
    assert not weights[0].frozen.any()


def test_a_moved_or_replaced_weight_is_noticed() -> None:
    model, weights = attached()
    tracker = qs.OscillationTracker(weights)
    model.double()
    with pytest.raises(TrackingError, match=telling("3: ", "float64", "float32")):
        tracker.step()


def test_weights_that_are_not_finite_are_named() -> None:
    model, weights = attached()
    tracker = qs.OscillationTracker(weights)
    tracker.step()
    model[5].weight.data[0, 0] = float("nan")
    with pytest.raises(DivergedError, match=telling("5: ", "finite", "Watch")):
        tracker.step()


def test_a_control_of_another_model_is_refused() -> None:
    model, weights = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    state = copy.deepcopy(control.state_dict())
    state["weights"] = {}
    with pytest.raises(TrackingError, match=telling("3", "32, 288")):
        control.load_state_dict(state)


def test_penalties_of_two_small_batches_can_be_added() -> None:
    model, weights = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cures = [qs.Dampening(1.0)]
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), cures)
    first, second = control.penalty(), control.penalty()
    first.backward()
    one = weights[0].latent.grad.clone()
    second.backward()
    torch.testing.assert_close(weights[0].latent.grad, 2 * one)
    model(IMAGES)


def test_choices_of_an_attached_network_can_be_replaced() -> None:
    from quiesce.diagnosis import oscillating_choices, replaced

    model, weights = attached()
    tracker = qs.OscillationTracker(weights, momentum=0.3)
    tracker.follow_average(weights)
    for step in range(8):
        model[3].weight.data += (-1) ** step * 0.9 * model[3].quantizer.scale
        tracker.step()
    (choice,) = oscillating_choices(tracker)
    before = model[3].quantizer(model[3].weight).detach()
    with replaced([choice], [choice.lower + 1]):
        inside = model[3].quantizer(model[3].weight).detach()
    scale = model[3].quantizer.scale.expand(32, 288).flatten()[choice.index]
    expected = (scale * (choice.lower + 1 - 0.5)).detach()
    torch.testing.assert_close(inside.flatten()[choice.index], expected)
    torch.testing.assert_close(model[3].quantizer(model[3].weight).detach(), before)


@pytest.mark.slow
def test_compiled_passes_give_the_same_bits() -> None:
    states = []
    for compiled in (False, True):
        model, weights = attached()
        if compiled:
            weights.compile()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        tracker = qs.OscillationTracker(weights, momentum=0.2)
        control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.5, max_frozen=None)])
        for step in range(12):
            noise = torch.Generator().manual_seed(step)
            for weight in weights:
                far = (-1) ** step + torch.randn(weight.latent.shape, generator=noise)
                weight.latent.grad = 0.5 * weight.scale * far
            optimizer.step()
        assert sum(int(weight.frozen.sum()) for weight in weights) > 0
        states.append((dict(model.state_dict()), control.state_dict()))
    assert_same_state(*states)
