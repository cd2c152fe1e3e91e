"""The limit on the frozen share of a layer: it stops before a layer is lost."""

import logging

import pytest
import torch

import quiesce as qs
from quiesce.cures.frozen_limit import EVERY
from quiesce.errors import FreezingError
from support.messages import telling, tells
from support.small_networks import Walk, one_layer, prepared_network


def swing(walk: Walk, share: float, steps: int) -> None:
    """Let the first `share` of the weights oscillate, and the others rest."""
    for step in range(steps):
        latent = torch.zeros(walk.weights[0].latent.numel())
        latent[: round(share * len(latent))] = 0.5 * (step % 2)
        walk.to(latent)


def test_a_threshold_that_freezes_everything_stops_before_it_has() -> None:
    walk = Walk(prepared_network(), [qs.Freezing(1e-6)], momentum=0.1)
    with pytest.raises(FreezingError, match="raise the threshold") as raised:
        walk.at_random(30)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert f"by step {walk.control.step}," in message
    shares = {weight.name: weight.frozen.float().mean().item() for weight in walk.weights}
    assert all(share <= 0.6 for share in shares.values())
    assert any(tells(message, f"layer {name!r}", "1e-06") for name in shares)


@pytest.mark.parametrize(("share", "stops"), [(0.6, False), (0.65, True)])
def test_the_limit_is_sixty_percent_of_a_layer(share: float, stops: bool) -> None:
    walk = Walk(one_layer(40), [qs.Freezing(0.05)], momentum=0.1)
    if stops:
        with pytest.raises(FreezingError, match=telling("26 of the 40", "layer ''")):
            swing(walk, share, 6)
        assert not walk.weights[0].frozen.any()
    else:
        swing(walk, share, 6)
        assert walk.weights[0].frozen.sum() == 24


def test_what_was_frozen_before_counts(caplog: pytest.LogCaptureFixture) -> None:
    walk = Walk(one_layer(40), [qs.Freezing(0.05)], momentum=0.1)
    mask = torch.arange(40).view(1, 40) >= 20
    walk.weights[0].freeze(mask, torch.zeros(1, 40))
    with pytest.raises(FreezingError, match="25 of the 40"):
        swing(walk, 0.125, 6)


def test_what_others_freeze_is_counted_within_some_steps() -> None:
    walk = Walk(one_layer(40), [qs.Freezing(0.05)], momentum=0.1)
    swing(walk, 0.0, 3)
    mask = torch.arange(40).view(1, 40) >= 10
    walk.weights[0].freeze(mask, torch.zeros(1, 40))
    with pytest.raises(FreezingError, match="30 of the 40"):
        swing(walk, 0.0, EVERY)


def test_without_a_limit_a_layer_frozen_whole_is_told_once(caplog) -> None:
    walk = Walk(one_layer(40), [qs.Freezing(0.05, max_frozen=None)], momentum=0.1)
    with caplog.at_level(logging.ERROR, "quiesce.control"), caplog.at_level(logging.WARNING):
        swing(walk, 1.0, EVERY + 6)
    [record] = caplog.records
    assert tells(record.getMessage(), "layer ''", "step 2")


@pytest.mark.parametrize("most", [0, 1, -0.1, float("nan")])
def test_a_limit_out_of_range_is_refused(most: float) -> None:
    with pytest.raises(ValueError, match="max_frozen must be above 0 and below 1"):
        qs.Freezing(0.1, max_frozen=most)
