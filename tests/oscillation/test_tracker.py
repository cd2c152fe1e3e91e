"""The tracker against the definition of oscillation written out, and its reports."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import quiesce as qs
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, prepared_network, weights_only
from support.states import assert_same_state

momenta = st.floats(1e-3, 0.999)


class Definition:
    """Frequency, average of codes and counts of a row of weights, step by step in float64."""

    def __init__(self, first: Tensor, momentum: float) -> None:
        self.momentum = momentum
        self.code = first.double()
        self.average = first.double()
        self.last_direction = torch.zeros_like(self.code)
        self.frequency = torch.zeros_like(self.code)
        self.oscillations = self.flips = 0
        self.rate = 0.0

    def step(self, code: Tensor) -> None:
        direction = (code.double() - self.code).sign()
        oscillated = direction * self.last_direction == -1
        m = self.momentum
        self.frequency = m * oscillated + (1 - m) * self.frequency
        self.average = m * code + (1 - m) * self.average
        self.last_direction = torch.where(direction == 0, self.last_direction, direction)
        self.code = code.double()
        self.oscillations += int(oscillated.sum())
        self.flips += int((direction != 0).sum())
        self.rate = 0.99 * self.rate + 0.01 * (direction != 0).double().mean().item()


def random_codes(steps: int, count: int, bits: int, seed: int, busy: float) -> Tensor:
    """Codes that stay where they were but for a share `busy` of them: (steps, count)."""
    noise = torch.Generator().manual_seed(seed)
    grid = qs.Grid(bits, signed=True)
    new = torch.randint(grid.quant_min, grid.quant_max + 1, (steps, count), generator=noise)
    moves = torch.rand(steps, count, generator=noise) < busy
    rows = [new[0]]
    for step in range(1, steps):
        rows.append(torch.where(moves[step], new[step], rows[-1]))
    return torch.stack(rows).float()


def follow(walk: Walk, codes: Tensor, scale: float = 0.5) -> Definition:
    """Let the only layer of `walk` take these codes, and hold its frequencies at every step."""
    [weight], tracker = walk.weights, walk.tracker
    tracker.follow_average(walk.weights)
    expected = Definition(codes[0], tracker.momentum)
    for step, code in enumerate(codes):
        walk.to(code * scale)
        if step:
            expected.step(code)
        # decays and sums in float32: an error of eps a step, of values up to 1 and up to a code
        frequency = tracker.frequency(weight.name)[0].double()
        torch.testing.assert_close(frequency, expected.frequency, rtol=1e-5, atol=1e-12)
        average = tracker.average(weight.name)[0].double()
        atol = 1e-5 * weight.grid.quant_max
        torch.testing.assert_close(average, expected.average, rtol=0, atol=atol)
    return expected


def as_on_an_accelerator(walk: Walk, dense: bool) -> None:
    for group in walk.tracker.groups:
        group.on_cpu = not dense


@settings(max_examples=25)
@given(
    momentum=momenta,
    bits=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
    busy=st.sampled_from([0.02, 0.3, 1.0]),
    steps=st.integers(1, 40),
    dense=st.booleans(),
)
def test_frequency_and_average_are_as_defined(momentum, bits, seed, busy, steps, dense) -> None:
    walk = Walk(one_layer(5, bits), momentum=momentum)
    as_on_an_accelerator(walk, dense)
    expected = follow(walk, random_codes(steps, 5, bits, seed, busy))
    [report] = walk.tracker.report()
    assert report.total_oscillations == expected.oscillations
    assert report.flips_per_step == pytest.approx(expected.flips / max(1, steps - 1))
    assert report.transition_rate == pytest.approx(expected.rate)


class Waits(TorchDispatchMode):
    """Counts operators whose result the host waits for, on an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
        self.count += func.overloadpacket.__name__ in waiting
        return func(*args, **(kwargs or {}))


def test_on_an_accelerator_a_step_waits_for_nothing() -> None:
    cures = [qs.Freezing(0.1, max_frozen=None), qs.Dampening(1e-3)]
    walk = Walk(prepared_network(), cures, momentum=0.1)
    as_on_an_accelerator(walk, dense=True)
    walk.control.penalty()
    walk.at_random(1)
    waiting = []
    for _ in range(60):
        with Waits() as waits:
            walk.control.penalty()
            walk.optimizer.step()
        waiting.append(waits.count > 0)
        walk.at_random(1, spread=0.2)
    assert walk.tracker.summary().frozen > 0
    assert sum(waiting) <= 2  # whether a layer is frozen whole is looked at every 50 steps


@pytest.mark.parametrize(
    ("momentum", "steps"),
    [pytest.param(0.02, 2500, marks=pytest.mark.slow), (0.5, 400), (0.99, 400)],
)
def test_a_long_run_stays_as_defined(momentum: float, steps: int) -> None:
    walk = Walk(one_layer(8), momentum=momentum, distance=None)
    follow(walk, random_codes(steps, 8, 3, seed=0, busy=0.1))
    assert walk.tracker._base > 0  # what is stored was rescaled on the way


@pytest.mark.parametrize("average", ["code", None])
def test_looking_at_all_weights_gives_the_same_bits_as_looking_where_codes_moved(average) -> None:
    walks = []
    for dense in (False, True):
        torch.manual_seed(3)
        walk = Walk(
            prepared_network(per_channel=True),
            [qs.Freezing(0.3, average, max_frozen=None)],
            momentum=0.1,
        )
        as_on_an_accelerator(walk, dense)
        walk.at_random(60, spread=0.7)
        walks.append(walk)
    sparse, dense = walks
    assert sparse.tracker.summary().frozen > 0.1
    assert_same_state(sparse.tracker.state_dict(), dense.tracker.state_dict())
    for one, two in zip(sparse.weights, dense.weights, strict=True):
        assert torch.equal(one.history, two.history)
        assert torch.equal(one.latent, two.latent)


def test_the_first_step_only_remembers() -> None:
    walk = Walk(one_layer(3), momentum=0.5)
    assert walk.tracker.summary().oscillating == 0
    walk.to(torch.tensor([1.0, -1.0, 0.0]))
    [report] = walk.tracker.report()
    assert (report.flips_per_step, report.total_oscillations, report.oscillating) == (0, 0, 0)
    walk.to(torch.tensor([0.0, 0.0, 0.0]))  # a first change has no direction to oppose
    assert walk.tracker.report()[0].flips_per_step == 2
    assert not walk.tracker.frequency("").any()


def test_a_flip_against_an_old_direction_oscillates_however_far_it_goes() -> None:
    walk = Walk(one_layer(4, bits=8, scale=1.0), momentum=0.25)
    for row in ([0, 0, 0, 0], [1, 1, 100, 1], [1, 2, -100, 1], [0, 3, -120, 1], [0, 2, 127, 1]):
        walk.to(torch.tensor(row).float())
    f = 0.25
    first_then_quiet = f * (1 - f)
    expected = [first_then_quiet, f, f * (1 - f) ** 2 + f, 0]
    torch.testing.assert_close(walk.tracker.frequency("")[0], torch.tensor(expected))


def test_a_change_of_the_scale_alone_counts() -> None:
    layer = one_layer(3, scale=1.0)
    walk = Walk(layer, momentum=0.5)
    latents = torch.tensor([1.2, 0.0, -1.2])
    for scale in (1.0, 0.5, 1.0):
        layer.weight_quantizer.scale.data.fill_(scale)
        walk.to(latents)
    [report] = walk.tracker.report()
    assert report.total_oscillations == 2
    assert report.flips_per_step == 2


def test_reports_of_layers_and_of_all_agree() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 1, bias=False))
    scheme = weights_only(overrides={"1": {"weight_bits": 8}})
    qs.prepare(model, scheme, torch.zeros(1, 4))
    walk = Walk(model, [qs.Freezing(0.6, average=None, max_frozen=None)], momentum=0.5)
    scales = [w.scale for w in walk.weights]
    path = [  # codes of the first layer, and of the second
        ([0, 0, 0, 0, 0, 0, 0, 0], [50, 50]),
        ([1, 1, 1, 0, 0, 0, 0, 0], [51, 50]),
        ([0, 2, 0, 0, 0, 0, 0, 0], [51, 50]),  # two oscillate: 0.5
        ([1, 2, 0, 0, 0, 0, 0, 0], [50, 50]),  # one goes to 0.75 and is frozen, one to 0.25
        ([0, 2, 0, 0, 0, 0, 0, 0], [50, 50]),  # the frozen one would have flipped
    ]
    for codes in path:
        walk.to(*(torch.tensor(c) * s for c, s in zip(codes, scales, strict=True)))
    first, second = walk.tracker.report(cut=0.2)
    assert (first.name, first.weights, first.bits) == ("0", 8, 3)
    assert first.frozen == 1 / 8
    assert first.oscillating == 1 / 8  # 0.375; the other fell to 0.125
    assert first.total_oscillations == 3
    assert first.flips_per_step == 7 / 4
    rate = 0.0
    for share in (3 / 8, 3 / 8, 1 / 8, 0):
        rate = 0.99 * rate + 0.01 * share
    assert first.transition_rate == pytest.approx(rate)
    assert (second.name, second.weights, second.bits) == ("1", 2, 8)
    assert (second.frozen, second.total_oscillations, second.flips_per_step) == (0, 1, 0.5)
    assert second.oscillating == 1 / 2

    overall = walk.tracker.summary(cut=0.2)
    assert (overall.name, overall.weights, overall.bits) == ("all", 10, None)
    assert overall.frozen == pytest.approx(1 / 10)
    assert overall.oscillating == pytest.approx(2 / 10)
    assert overall.total_oscillations == 4
    assert overall.flips_per_step == pytest.approx(9 / 4)
    expected = (8 * first.transition_rate + 2 * second.transition_rate) / 10
    assert overall.transition_rate == pytest.approx(expected)


def test_oscillating_cuts_the_frequency_and_reports_count_it() -> None:
    walk = Walk(prepared_network(), momentum=0.1)
    walk.at_random(10, spread=0.5)
    for cut in (0.005, 0.15):
        masks = walk.tracker.oscillating(cut)
        for report in walk.tracker.report(cut):
            assert torch.equal(masks[report.name], walk.tracker.frequency(report.name) > cut)
            assert 0 < report.oscillating == masks[report.name].double().mean().item() < 1


@pytest.mark.parametrize("taken", [slice(None), slice(1, 2)], ids=["all", "one"])
def test_a_second_tracker_takes_over_and_the_first_says_so(taken: slice) -> None:
    weights = qs.quantized_weights(prepared_network())
    first = qs.OscillationTracker(weights)
    first.step()
    second = qs.OscillationTracker(weights[taken])
    with pytest.raises(TrackingError, match="another tracker follows these weights"):
        first.step()
    second.step()


def test_a_new_tracker_starts_from_now_and_leaves_what_is_frozen() -> None:
    layer = one_layer(4, scale=1.0)
    [weight] = qs.quantized_weights(layer)
    weight.freeze(torch.tensor([[True, False, False, False]]), torch.full((1, 4), 2))
    old = Walk(layer, momentum=0.5)
    for codes in ([0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]):
        old.to(torch.tensor(codes).float())
    new = Walk(layer, momentum=0.5)
    new.to(torch.tensor([-3.0, 1.0, 0.0, 0.0]))
    assert weight.latent[0, 0] == 2  # pinned after the very first step
    new.to(torch.tensor([-3.0, 0.0, 1.0, 0.0]))  # no direction is left from the old one
    assert not new.tracker.frequency("").any()
    assert weight.frozen.tolist() == [[True, False, False, False]]
    assert weight.codes().tolist() == [[2, 0, 1, 0]]


@pytest.mark.parametrize("momentum", [0, 1, -0.1, 1.5, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"momentum`? must be above 0 and below 1, got"):
        Walk(one_layer(2), momentum=momentum)


def test_nothing_to_track_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights`? is empty"):
        qs.OscillationTracker([])


def test_a_layer_of_another_name_is_refused_with_the_names_there_are() -> None:
    tracker = Walk(prepared_network()).tracker
    with pytest.raises(KeyError, match=r"no tracked layer is called 'stem'; there are \['0'"):
        tracker.frequency("stem")


def test_averages_start_with_the_first_step_or_not_at_all() -> None:
    walk = Walk(one_layer(2))
    with pytest.raises(TrackingError, match="nothing follows the average of codes"):
        walk.tracker.average("")
    walk.at_random(1)
    with pytest.raises(TrackingError, match="attach cures before"):
        qs.Control(walk.optimizer, walk.weights, walk.tracker, [qs.Freezing(0.1, max_frozen=None)])


@pytest.mark.parametrize("cut", [-0.1, 1.5])
def test_a_cut_that_is_no_frequency_is_refused(cut: float) -> None:
    walk = Walk(one_layer(3))
    with pytest.raises(ValueError, match=f"cut must be a frequency, 0 to 1, got {cut}"):
        walk.tracker.summary(cut)


def test_a_summary_prints_as_a_small_table() -> None:
    walk = Walk(prepared_network())
    assert "0 steps" in str(walk.tracker.summary())
    walk.at_random(20)
    walk.weights[0].latent.requires_grad_(False)
    summary = walk.tracker.summary()
    lines = str(summary).splitlines()
    assert lines[0] == "after 20 steps:"
    assert [line.split()[0] for line in lines[3:]] == [
        "all", *(r.name for r in sorted(summary.layers, key=lambda r: -r.oscillating))
    ]  # fmt: skip
    assert next(line for line in lines if line.startswith("0 ")).endswith("locked")
    assert max(map(len, lines)) < 100


def test_a_summary_of_many_layers_stays_small() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(40)])
    qs.prepare(model, weights_only(), torch.ones(1, 4))
    walk = Walk(model)
    walk.at_random(3)
    lines = str(walk.tracker.summary()).splitlines()
    assert lines[-1] == "30 more layers oscillate less"
    assert len(lines) < 20
