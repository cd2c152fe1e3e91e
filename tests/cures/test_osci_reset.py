"""OsciReset: which weights go to the middle of their bin, and when."""

from itertools import pairwise

import pytest
import torch

import quiesce as qs
from quiesce.errors import TrackingError
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network

PERIOD, WINDOW, BEGIN = 9, 5, 4


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_it_resets_what_travels_too_far_and_nothing_else(per_channel: bool) -> None:
    ratio = 1.3
    cure = qs.OsciReset(ratio, PERIOD, WINDOW, BEGIN)
    walk = Walk(prepared_network(per_channel=per_channel), [cure])
    noise = torch.Generator().manual_seed(0)
    positions: list[list[torch.Tensor]] = []  # latents and codes of all layers after each step
    resets = 0
    for step in range(40):
        given = [torch.randn(w.latent.shape, generator=noise) * w.scale * 0.7 for w in walk.weights]
        for latent, weight in zip(given, walk.weights, strict=True):
            latent += 0.3 * weight.latent  # some travel less than others
        walk.to(*given)
        codes = [weight.codes().float() for weight in walk.weights]
        positions.append([*given, *codes])
        if step < BEGIN or (step - BEGIN) % PERIOD != WINDOW:
            for weight, latent in zip(walk.weights, given, strict=True):
                assert torch.equal(weight.latent, latent), step
            continue
        window = positions[-WINDOW - 1 :]
        for i, weight in enumerate(walk.weights):
            ways = [
                sum((b[j] - a[j]).abs() for a, b in pairwise(window))
                for j in (i, i + len(walk.weights))
            ]
            reset = ways[1] * weight.scale >= ratio * ways[0]
            centre = weight.scale * codes[i]
            assert torch.equal(weight.latent, torch.where(reset, centre, given[i])), step
            resets += int(reset.sum())
    assert walk.control.report() == [{"cure": "OsciReset", "resets": resets}]
    assert 0 < resets < 4 * sum(weight.latent.numel() for weight in walk.weights)


def test_a_weight_that_did_not_move_and_one_with_many_bits_are_left() -> None:
    layer, wide = one_layer(4), one_layer(4, bits=8)
    for one, count in ((layer, 2), (wide, 0)):
        walk = Walk(one, [qs.OsciReset(2.0, 4, 3, max_bits=4 if one is layer else 8)])
        swing = torch.tensor([0.24, 0.26]) if one is layer else torch.tensor([0.05, 0.06])
        still = torch.tensor([0.3, -0.3])
        for step in range(4):
            walk.to(torch.cat([swing if step % 2 else swing.flip(0), still]))
        moved = (one.weight.detach().flatten()[2:] != still).sum() == 0
        assert moved
        assert walk.control.report()[0]["resets"] == count
        if one is layer:
            assert set(one.weight.detach().flatten()[:2].tolist()) == {0.0, 0.5}


def test_what_it_is_not_defined_for_is_refused() -> None:
    for name, value in (("ratio", 0), ("window", 0), ("period", 50), ("begin", -1)):
        with pytest.raises(ValueError, match=telling(name, value)):
            qs.OsciReset(**{name: value})
    with pytest.raises(TrackingError, match=telling("OsciReset", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.OsciReset()])
    with pytest.raises(TrackingError, match=telling("0", "OsciReset", "Hysteresis")):
        Walk(prepared_network(estimator=qs.Hysteresis()), [qs.OsciReset()])
