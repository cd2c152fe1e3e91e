"""The distance ratio against the distances themselves."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from support.small_networks import Walk, one_layer, prepared_network, weights_only


def traveled(positions: Sequence[Tensor]) -> float:
    return sum((b - a).abs().sum().item() for a, b in pairwise(positions))


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_the_distance_ratio_is_exact_where_all_is_looked_at(spread: float) -> None:
    walk = Walk(prepared_network(), distance=qs.DistanceSampling(None, 1))
    latents: list[list[Tensor]] = [[] for _ in walk.weights]
    quantized: list[list[Tensor]] = [[] for _ in walk.weights]
    for _ in range(12):
        walk.at_random(1, spread)
        for i, weight in enumerate(walk.weights):
            latents[i].append(weight.latent.detach().double())
            quantized[i].append((weight.scale * weight.codes()).double())
    paths = [(traveled(q), traveled(w)) for q, w in zip(quantized, latents, strict=True)]
    for report, (after, before) in zip(walk.tracker.report(), paths, strict=True):
        assert report.distance_ratio == pytest.approx(after / before, rel=1e-5)
    overall = sum(q for q, _ in paths) / sum(w for _, w in paths)
    assert walk.tracker.summary().distance_ratio == pytest.approx(overall, rel=1e-5)


def test_a_sampled_distance_ratio_is_near_the_exact_one() -> None:
    sampled = Walk(one_layer(4096), distance=qs.DistanceSampling(256, 4))
    exact = Walk(one_layer(4096), distance=qs.DistanceSampling(None, 1))
    for walk in (sampled, exact):
        torch.manual_seed(1)
        walk.at_random(60, spread=0.3)
    ratios = [walk.tracker.report()[0].distance_ratio for walk in (sampled, exact)]
    assert ratios[0] != ratios[1]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)  # of 256 * 15 independent moves


def test_the_distance_ratio_is_zero_where_nothing_moved_and_none_where_not_measured() -> None:
    still = Walk(one_layer(4), distance=qs.DistanceSampling(None, 1))
    for _ in range(3):
        still.to(torch.ones(4))
    assert still.tracker.report()[0].distance_ratio == still.tracker.summary().distance_ratio == 0
    blind = Walk(one_layer(4), distance=None)
    blind.at_random(3)
    assert blind.tracker.report()[0].distance_ratio is None
    assert blind.tracker.summary().distance_ratio is None


@pytest.mark.parametrize("sampling", [qs.DistanceSampling(0, 1), qs.DistanceSampling(None, 0)])
def test_a_sample_of_nothing_is_refused(sampling: qs.DistanceSampling) -> None:
    with pytest.raises(ValueError, match="at least 1 weight and step"):
        Walk(one_layer(3), distance=sampling)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_sample_looks_at_the_same_weights_before_and_after_rounding(channels_last) -> None:
    layer = nn.Conv2d(4, 6, 3, bias=False)
    if channels_last:
        layer.to(memory_format=torch.channels_last)
    qs.prepare(layer, weights_only(), torch.zeros(1, 4, 3, 3))
    walk = Walk(layer, distance=qs.DistanceSampling(31, 1))
    grid = walk.weights[0].scale * torch.randint(-4, 4, (20, 6, 4, 3, 3))
    for latents in grid:  # what is on the grid goes as far rounded as not
        walk.to(latents)
    assert walk.tracker.report()[0].distance_ratio == pytest.approx(1, rel=1e-5)


def test_a_half_pair_of_another_memory_format_is_let_go() -> None:
    def walk(channels_last: bool) -> Walk:
        layer = nn.Conv2d(4, 6, 3, bias=False)
        if channels_last:
            layer.to(memory_format=torch.channels_last)
        qs.prepare(layer, weights_only(), torch.zeros(1, 4, 3, 3))
        return Walk(layer, distance=qs.DistanceSampling(None, 4))

    first, alike, otherwise = walk(False), walk(False), walk(True)
    first.at_random(1)
    for second in (alike, otherwise):
        second.tracker.load_state_dict(first.tracker.state_dict())
        second.at_random(1)
    assert alike.tracker.report()[0].distance_ratio > 0
    assert otherwise.tracker.report()[0].distance_ratio == 0
