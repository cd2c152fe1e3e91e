"""The tracker's state: through files, into other networks, and untouched between steps."""

import copy
from collections.abc import Sequence
from dataclasses import astuple

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, prepared_network, small_network, weights_only
from support.states import assert_same_state, through_a_file


@pytest.mark.parametrize("cut_at", [0, 1, 7, 40])
@pytest.mark.parametrize("cures", [(), ("freezing",)], ids=["tracking", "freezing"])
def test_a_tracker_goes_on_from_a_file_bit_for_bit(cut_at: int, cures: tuple) -> None:
    def walk() -> Walk:
        torch.manual_seed(2)
        made = [qs.Freezing(0.2, max_frozen=None)] * len(cures)
        sampling = qs.DistanceSampling(8, 3)
        return Walk(prepared_network(), made, momentum=0.7, distance=sampling)

    whole, first, second = walk(), walk(), walk()
    moves = [[torch.randn(w.latent.shape) * w.scale for w in whole.weights] for _ in range(60)]
    for latents in moves:
        whole.to(*latents)
    for latents in moves[:cut_at]:
        first.to(*latents)
    for old, new in zip(first.weights, second.weights, strict=True):
        new.latent.data.copy_(old.latent)
        layer = new.module
        layer.load_state_dict(through_a_file(old.module.state_dict()))
    second.control.load_state_dict(through_a_file(first.control.state_dict()))
    assert_same_state(second.control.state_dict(), first.control.state_dict())
    for latents in moves[cut_at:]:
        second.to(*latents)
    assert_same_state(second.control.state_dict(), whole.control.state_dict())
    assert [astuple(r) for r in second.tracker.report()] == [
        astuple(r) for r in whole.tracker.report()
    ]
    for one, two in zip(second.weights, whole.weights, strict=True):
        assert torch.equal(one.history, two.history)


def test_a_saved_state_does_not_go_on_changing() -> None:
    walk = Walk(prepared_network(), [qs.Freezing(0.2, max_frozen=None)], momentum=0.1)
    walk.at_random(5)
    state = walk.tracker.state_dict()
    kept = copy.deepcopy(state)
    walk.at_random(5)
    assert_same_state(state, kept)


def networks_in_two_formats() -> tuple[nn.Module, nn.Module]:
    models = small_network(), small_network().to(memory_format=torch.channels_last)
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        qs.prepare(model, weights_only(), torch.zeros(1, 3, 6, 6))
    return models


def test_a_state_loads_into_another_memory_format() -> None:
    one, two = (
        Walk(model, [qs.Freezing(0.4, max_frozen=None)], momentum=0.2)
        for model in networks_in_two_formats()
    )
    one.at_random(20)
    for old, new in zip(one.weights, two.weights, strict=True):
        new.module.load_state_dict(old.module.state_dict())
    two.control.load_state_dict(one.control.state_dict())
    for step in range(2):
        for old, new in zip(one.weights, two.weights, strict=True):
            assert torch.equal(two.tracker.frequency(new.name), one.tracker.frequency(old.name))
            assert torch.equal(two.tracker.average(new.name), one.tracker.average(old.name))
        for walk in (one, two):
            torch.manual_seed(step)
            walk.at_random(5)


@pytest.mark.parametrize("read", ["step", "frequency", "average", "oscillating", "state_dict"])
def test_a_change_of_memory_format_is_refused_wherever_it_would_matter(read: str) -> None:
    model = prepared_network()
    walk = Walk(model, [qs.Freezing(0.4, max_frozen=None)], momentum=0.2)
    walk.at_random(5)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(TrackingError, match="changed its memory format"):
        getattr(walk.tracker, read)(*["0"] * (read in ("frequency", "average")))


def saved(model: nn.Module, momentum: float = 0.1, cures: Sequence[qs.Cure] = ()) -> dict:
    walk = Walk(model, cures, momentum)
    walk.at_random(3)
    return walk.tracker.state_dict()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: saved(one_layer(3)), "follows other layers; they differ in"),
        (lambda: saved(prepared_network(), 0.2), r"momentum 0\.2, this one 0\.1"),
        (
            lambda: saved(prepared_network(), 0.1, [qs.Freezing(0.2, max_frozen=None)]),
            "with the same cures before loading",
        ),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(state, message: str) -> None:
    walk = Walk(prepared_network(), momentum=0.1)
    walk.at_random(4)
    before = copy.deepcopy(walk.tracker.state_dict())
    with pytest.raises(TrackingError, match=message):
        walk.tracker.load_state_dict(state())
    assert_same_state(walk.tracker.state_dict(), before)


@pytest.mark.parametrize(("saved_bits", "bits"), [(3, 8), (8, 3)])
def test_a_state_whose_averages_are_of_other_layers_is_refused(saved_bits: int, bits: int) -> None:
    def walk(max_bits: int) -> Walk:
        model = prepared_network(overrides={"0": {"weight_bits": 8}})
        return Walk(model, [qs.Freezing(0.2, max_bits=max_bits, max_frozen=None)])

    with pytest.raises(TrackingError, match="with the same cures before loading"):
        walk(bits).tracker.load_state_dict(walk(saved_bits).tracker.state_dict())


def test_forwards_and_reports_between_steps_leave_no_trace() -> None:
    model = prepared_network()
    walk = Walk(model, [qs.Freezing(0.2, max_frozen=None)], momentum=0.1)
    walk.at_random(5)
    before = copy.deepcopy((walk.control.state_dict(), dict(model.state_dict())))
    images = torch.rand(2, 3, 6, 6)
    model.eval()(images)
    walk.tracker.report()
    walk.tracker.summary()
    for weight in walk.weights:
        weight.codes(), weight.frozen, walk.tracker.average(weight.name)
    qs.strip(model)
    assert_same_state(
        (walk.control.state_dict(), dict(model.state_dict())), (before[0], dict(before[1]))
    )
