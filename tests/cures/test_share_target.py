"""Cures that steer to a share of oscillating weights at the end of a training."""

import copy
import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.cures.share_target import KEPT, TOLERANCE
from quiesce.errors import FreezingError, TrackingError
from quiesce.oscillation.frequency_counts import EDGES, frequency_counts
from support.messages import telling
from support.small_networks import Walk, one_layer, weights_only
from support.states import assert_same_state, through_a_file

TARGET = 0.005
LEARNING_RATE = 0.05
INPUTS, WIDTH, OUTPUTS = 32, 64, 8


class Training:
    """A network of 8,192 3-bit weights, between 8-bit layers, starts from its float teacher."""

    def __init__(self, total: int, *cures: qs.Cure, momentum: float | None = None) -> None:
        torch.manual_seed(1)
        self.teacher, self.total = mlp(), total
        self.teacher[-1].weight.data.mul_(10)
        self.model = copy.deepcopy(self.teacher)
        scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=8)
        qs.prepare(self.model, scheme, torch.zeros(1, INPUTS))
        groups = qs.parameter_groups(self.model, weight_decay=0.0, scale_lr=1e-4)
        self.optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)
        weights = qs.quantized_weights(self.model)
        tracker = qs.OscillationTracker(weights, momentum, distance=None)
        self.control = qs.Control(self.optimizer, weights, tracker, cures, total=total)

    def steps(self, count: int) -> "Training":
        for _ in range(count):
            progress = self.control.step / self.total
            lr = LEARNING_RATE * (1 + math.cos(math.pi * progress)) / 2
            self.optimizer.param_groups[0]["lr"] = lr
            noise = torch.Generator().manual_seed(self.control.step)
            inputs = torch.randn(32, INPUTS, generator=noise)
            loss = (self.model(inputs) - self.teacher(inputs).detach()).square().mean()
            self.optimizer.zero_grad()
            (loss + self.control.penalty()).backward()
            self.optimizer.step()
        return self

    def over_low_bits(self, what: str) -> float:
        layers = [layer for layer in self.control.tracker.report() if layer.bits == 3]
        return sum(getattr(x, what) * x.weights for x in layers) / sum(x.weights for x in layers)

    def report(self) -> dict[str, Any]:
        [report] = self.control.report()
        return report


def mlp() -> nn.Sequential:
    widths = [INPUTS, WIDTH, WIDTH, WIDTH, OUTPUTS]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*(x for layer in layers for x in (layer, nn.ReLU())))[:-1]


@pytest.mark.parametrize(
    "total", [300, *(pytest.param(n, marks=pytest.mark.slow) for n in (1000, 5000))]
)
def test_freezing_ends_at_its_target_and_freezes_few(total: int) -> None:
    run = Training(total, qs.Freezing(target=TARGET)).steps(total)
    tracker, report = run.control.tracker, run.report()
    assert tracker.momentum == qs.momentum_for(total)
    plain = Training(total, momentum=tracker.momentum).steps(total)
    assert plain.over_low_bits("oscillating") > 4 * TARGET  # there is something to do
    share = run.over_low_bits("oscillating")
    assert share <= TARGET * (1 + TOLERANCE)
    assert report["share_end"] == pytest.approx(share, abs=1e-9)
    assert report["frozen"] == pytest.approx(run.over_low_bits("frozen"), abs=1e-9)
    assert report["reached"] is True
    # a threshold at the cut freezes whatever oscillates
    cut = Training(total, qs.Freezing(0.005, max_frozen=None), momentum=tracker.momentum)
    assert report["frozen"] < cut.steps(total).over_low_bits("frozen")


@pytest.mark.slow
def test_the_report_is_bounded_and_in_order() -> None:
    report = Training(900, qs.Freezing(target=TARGET)).steps(900).report()
    assert len(report["steps"]) <= KEPT
    steps = [step for step, _, _ in report["steps"]]
    assert steps == sorted(set(steps))
    assert steps[0] >= 225
    assert steps[-1] == 900
    assert report["steps"][-1][1] == report["share_end"]


@pytest.mark.parametrize(
    ("make", "at"),
    [
        pytest.param(make, at, marks=() if at == quick else pytest.mark.slow)
        for make, quick in ((qs.Freezing, 171), (qs.Dampening, 150))
        for at in (40, 150, 171, 290)
    ],
)
def test_a_run_that_is_resumed_goes_on_with_the_same_bits(make: Any, at: int) -> None:
    run = Training(300, make(target=TARGET)).steps(at)
    again = Training(300, make(target=TARGET))
    again.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    again.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    again.control.load_state_dict(through_a_file(run.control.state_dict()))
    for one in (run, again):
        one.steps(300 - at)
    assert_same_state(dict(again.model.state_dict()), dict(run.model.state_dict()))
    assert_same_state(again.control.state_dict(), run.control.state_dict())
    assert again.report() == run.report()


@pytest.mark.slow
def test_dampening_lowers_the_share() -> None:
    total = 1000
    run = Training(total, qs.Dampening(target=0.02)).steps(total)
    plain = Training(total, momentum=run.control.tracker.momentum).steps(total)
    share = run.over_low_bits("oscillating")
    assert share < plain.over_low_bits("oscillating") / 2
    assert run.report()["reached"] is (share <= 0.02 * (1 + TOLERANCE))
    assert run.report()["steered"] == "strength"


@pytest.mark.parametrize(
    "aggregation",
    ["kernel_mean", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sum", "mean"))],
)
def test_dampening_reaches_its_target_in_every_aggregation(aggregation: Any) -> None:
    run = Training(300, qs.Dampening(None, aggregation, target=0.02)).steps(300)
    assert run.over_low_bits("oscillating") <= 0.02 * (1 + TOLERANCE)
    assert run.report()["reached"]


def test_a_strength_at_the_end_of_its_range_leaves_it_at_once() -> None:
    cure = qs.Dampening(target=0.5)
    walk = Walk(one_layer(64), [cure], momentum=0.05, total=3000)
    levels = []
    for step in range(2600):  # all rest, then all oscillate
        walk.to(torch.full((64,), 0.5 * (step % 2) * (step > 2000)))
        levels.append(cure.level(step))
    assert levels[2000] == pytest.approx(1e-7)
    assert levels[2200] > 2e-7


def counted(walk: Walk) -> Any:
    return frequency_counts(walk.tracker, {weight.name for weight in walk.weights})


def test_counts_are_those_of_the_frequencies() -> None:
    walk = Walk(one_layer(400), momentum=0.1)
    walk.at_random(30, spread=0.4)
    [weight] = walk.weights
    weight.freeze(torch.arange(400).view(1, 400) < 100, weight.codes())
    counts, frequencies = counted(walk), walk.tracker.frequency("").flatten().double()
    for row, mine in ((counts.free, frequencies[100:]), (counts.pinned, frequencies[:100])):
        mine = mine[mine > EDGES[0]]
        expected = torch.bucketize(mine, EDGES).sub(1).bincount(minlength=len(EDGES) - 1)
        assert torch.equal(row[0], expected)
        assert row.sum() > 10
    assert counts.frozen.tolist() == [100]
    assert counts.share == walk.tracker.summary().oscillating


def planned(total: int, target: float, count: int, momentum: float = 0.05, **changes: Any) -> Any:
    """A walk of one layer under freezing with a target."""
    cure = qs.Freezing(target=target, **changes)
    return Walk(one_layer(count), [cure], momentum, total=total), cure


def swing(walk: Walk, steps: int, periods: torch.Tensor) -> None:
    """Let each weight change its code every so many steps."""
    for _ in range(steps):
        walk.to(0.5 * (walk.control.step // periods % 2))


def test_it_freezes_the_highest_frequencies_and_no_more_than_needed() -> None:
    # weight i oscillates every 2 + i steps, up to 80 steps; the others rest
    periods = torch.full((400,), 10**6)
    periods[:30] = torch.arange(30) + 2
    walk, cure = planned(400, 0.05, 400)
    swing(walk, 400, periods)
    frozen = walk.weights[0].frozen.flatten()
    assert cure.report()["reached"]
    assert frozen[:10].all()
    assert 10 <= frozen.sum() <= 12  # 30 oscillate, and 20 may
    assert frozen.nonzero().max() < 14


def test_where_the_share_is_below_the_target_nothing_is_frozen() -> None:
    periods = torch.full((400,), 10**6)
    periods[:10] = 2
    walk, cure = planned(400, 0.05, 400)
    swing(walk, 400, periods)
    assert not walk.weights[0].frozen.any()
    assert cure.report()["share_end"] == 0.025
    assert cure.report()["reached"]


def test_a_target_out_of_reach_within_max_frozen_stops_and_tells_what_can_be_reached() -> None:
    walk, _ = planned(400, 0.05, 400, max_frozen=0.2)
    periods = torch.full((400,), 10**6)
    periods[:200] = torch.arange(200) % 40 + 2  # five weights of each frequency
    with pytest.raises(FreezingError, match=telling("a share of 0.05", "20 %", "layer ''")) as why:
        swing(walk, 400, periods)
    assert len(str(why.value).splitlines()) == 1
    # 200 of 400 oscillate, and 80 may be frozen
    [share] = re.findall(r"a target of ([\d.]+) can", str(why.value))
    assert 0.3 <= float(share) <= 0.33


def test_a_full_layer_leaves_the_rest_to_others() -> None:
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    qs.prepare(model, weights_only(), torch.zeros(1, 20))
    for layer in model:
        layer.weight_quantizer.scale.data.fill_(0.5)
    cure = qs.Freezing(target=0.17, max_frozen=0.1)
    walk = Walk(model, [cure], 0.05, total=400)
    rest = torch.full((300,), 10**6)
    fast, slow = (torch.cat([torch.arange(100) // 5 + least, rest]) for least in (2, 22))
    for step in range(400):
        walk.to(*(0.5 * (step // periods % 2) for periods in (fast, slow)))
    # 200 of 800 oscillate, 136 may, and 40 of each layer may be frozen
    frozen = [int(weight.frozen.sum()) for weight in walk.weights]
    assert 30 <= frozen[0] <= 40
    assert 20 <= frozen[1] <= 40
    assert 64 <= sum(frozen) <= 75
    assert cure.report()["share_end"] <= 0.17


@pytest.mark.parametrize("make", [qs.Freezing, qs.Dampening])
@pytest.mark.parametrize("target", [0, 1, -0.1, 1.5, math.nan])
def test_a_target_out_of_range_is_refused(make: Any, target: float) -> None:
    with pytest.raises(ValueError, match=r"target must be above 0 and below 1.*, got"):
        make(target=target)


@pytest.mark.parametrize("make", [qs.Freezing, qs.Dampening])
def test_a_target_replaces_threshold_and_strength(make: Any) -> None:
    for given in ({}, {"target": 0.1, next(iter(make.__init__.__annotations__)): 0.1}):
        with pytest.raises(ValueError, match=r"either a .* or a target"):
            make(**given)


@pytest.mark.parametrize("make", [qs.Freezing, qs.Dampening])
def test_what_a_target_needs_is_told_in_one_line(make: Any) -> None:
    name = make.__name__
    for total, momentum, bits, told in [
        (None, None, 3, ("length of the training", "total=")),
        (100, None, 3, ("at least 153 optimizer steps", "has 100")),
        (1000, 0.001, 3, ("momentum of 0.001", "7606", "0.015")),
        (1000, None, 8, ("at most 4 bits", "have 8")),
    ]:
        with pytest.raises(TrackingError, match=telling(name, *told)) as why:
            Walk(one_layer(64, bits=bits), [make(target=0.1)], momentum, total=total)
        assert len(str(why.value).splitlines()) == 1


@pytest.mark.parametrize("total", [160, 300, 500, 1250, 5000, 15_000, 100_000, 500_000])
def test_the_momentum_leaves_time_to_measure_to_act_and_to_forget(total: int) -> None:
    momentum = qs.momentum_for(total)
    assert 0.001 <= momentum <= 0.05
    walk = Walk(one_layer(64), [qs.Freezing(target=0.1)], None, total=total)
    assert walk.tracker.momentum == momentum
    # one oscillation in the last 45 steps always counts, or the memory is longer than 200 steps
    assert momentum <= 0.005 or momentum * (1 - momentum) ** 44 > 0.005


def test_a_momentum_of_ones_own_stays() -> None:
    walk = Walk(one_layer(64), [qs.Freezing(target=0.1)], 0.02, total=5000)
    assert walk.tracker.momentum == 0.02
