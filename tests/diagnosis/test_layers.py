"""A layer's diagnosis tells what the tracker and the weights tell, and changes nothing."""

import dataclasses

import pytest
import torch

import quiesce as qs
from quiesce.diagnosis import code_counts, diagnose_layers, near_threshold, offset_histogram
from quiesce.diagnosis.layers import quantiles
from support.small_networks import Walk, prepared_network
from support.states import assert_same_state


@pytest.fixture
def walk():
    walk = Walk(prepared_network(), [qs.Freezing(0.3, max_frozen=None)], momentum=0.1)
    walk.at_random(20)
    return walk


def test_it_holds_the_report_of_the_tracker(walk):
    for seen, told in zip(diagnose_layers(walk.tracker), walk.tracker.report(), strict=True):
        fields = [field.name for field in dataclasses.fields(told)]
        assert {name: getattr(seen, name) for name in fields} == dataclasses.asdict(told)


def test_it_holds_the_geometry_of_the_weights(walk):
    diagnoses = diagnose_layers(walk.tracker, near=0.1)
    assert [layer.kind for layer in diagnoses] == ["full", "depth-wise", "linear"]
    for layer, weight in zip(diagnoses, walk.weights, strict=True):
        assert layer.offsets == offset_histogram(weight)
        assert layer.codes == code_counts(weight)
        assert layer.near_threshold == near_threshold(weight, 0.1)
        assert layer.frequency_quantiles["1"] == walk.tracker.frequency(weight.name).max().item()


def test_the_cut_says_what_oscillates(walk):
    never, ever = diagnose_layers(walk.tracker, cut=1.0), diagnose_layers(walk.tracker, cut=0.0)
    assert {layer.oscillating for layer in never} == {0.0}
    for layer in ever:
        moved = walk.tracker.frequency(layer.name) > 0
        assert layer.oscillating == moved.double().mean().item() > 0


def test_nothing_is_changed(walk):
    before = [dict(weight.module.state_dict()) for weight in walk.weights]
    tracker = walk.control.state_dict()
    diagnose_layers(walk.tracker)
    assert_same_state(walk.control.state_dict(), tracker)
    assert_same_state([dict(weight.module.state_dict()) for weight in walk.weights], before)


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101])
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(count):
    values = torch.randperm(count) + 1.0  # 1 to count: the k-th is k
    for share, value in quantiles(values).items():
        reached = (values <= value).sum().item()
        assert reached >= float(share) * count
        assert reached - 1 < float(share) * count
