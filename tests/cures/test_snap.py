"""Snap: after the last step, what oscillates is frozen at the rounded average of its codes."""

import pytest
import torch

import quiesce as qs
from quiesce.errors import TrackingError
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network


def test_it_freezes_all_that_oscillates_where_it_was_most_often() -> None:
    walk = Walk(prepared_network(overrides={"6": {"weight_bits": 8}}), [qs.Snap(0.05)], 0.1)
    walk.at_random(30, spread=0.4)
    moving = walk.tracker.oscillating(0.05)
    averages = {w.name: walk.tracker.average(w.name) for w in walk.weights if w.grid.bits == 3}
    before = {weight.name: weight.codes() for weight in walk.weights}
    assert not any(weight.frozen.any() for weight in walk.weights)
    walk.control.finish()
    count = 0
    for weight in walk.weights:
        if weight.grid.bits == 8:
            assert not weight.frozen.any()
            continue
        mask = moving[weight.name]
        assert 0 < mask.sum() < mask.numel()
        assert torch.equal(weight.frozen, mask)
        # the average without the codes of the last step rounds as the one with them, but near 1/2
        off = averages[weight.name] - weight.codes()
        assert (off[mask].abs() <= 0.5 + 0.1 * 8).all()
        assert torch.equal(weight.codes()[~mask], before[weight.name][~mask])
        assert torch.equal(weight.latent[mask], (weight.scale * weight.codes())[mask])
        count += int(mask.sum())
    assert walk.control.report() == [{"cure": "Snap", "snapped": count}]
    walk.control.finish()
    assert walk.control.report() == [{"cure": "Snap", "snapped": count}]


def test_a_weight_ends_on_the_level_that_it_had_more_often() -> None:
    layer = one_layer(2, scale=1.0)
    walk = Walk(layer, [qs.Snap()], 0.05)
    for step in range(60):  # 0 in a third of the steps and 1 in the others, and the other way round
        walk.to(torch.tensor([float(step % 3 > 0), float(step % 3 == 0)]))
    walk.control.finish()
    assert layer.weight.flatten().tolist() == [1.0, 0.0]


def test_what_it_is_not_defined_for_is_refused() -> None:
    for cut in (0, 1.5):
        with pytest.raises(ValueError, match=telling("cut", str(cut))):
            qs.Snap(cut)
    with pytest.raises(TrackingError, match=telling("Snap", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.Snap()])
