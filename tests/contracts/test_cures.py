"""What every cure promises, whatever it does; a new one is added to support/made_cures."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import quiesce as qs
from quiesce import cures
from quiesce.errors import TrackingError
from quiesce.schedules import ScheduleLike
from support.made_cures import MAKE
from support.small_networks import Walk, one_layer, prepared_network
from support.states import assert_same_state, through_a_file

TARGETS: list[Callable[[Any], qs.Cure]] = [
    lambda _: qs.Freezing(target=0.15, max_frozen=None),
    lambda _: qs.Dampening(target=0.15),
]
"""Cures that take a target instead of a number; they begin to act after 15 of `TOTAL` steps."""
TOTAL = 40
every_cure = pytest.mark.parametrize(
    "make",
    [*MAKE.values(), *TARGETS],
    ids=[*(kind.__name__ for kind in MAKE), "Freezing to a target", "Dampening to a target"],
)
SCHEDULED = [kind for kind in MAKE if kind is not qs.Snap]
"""Cures whose first argument may be a schedule."""
Make = Callable[[float | ScheduleLike], qs.Cure]
IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def trained(model: torch.nn.Module, *made: qs.Cure) -> tuple[Walk, Callable[[int], None]]:
    """A control with these cures, and what takes so many steps towards ever other targets."""
    walk = Walk(model, made, momentum=0.2, total=TOTAL)
    walk.optimizer.param_groups[0].update(lr=0.02, momentum=0.5)

    def train(steps: int) -> None:
        for _ in range(steps):
            noise = torch.Generator().manual_seed(walk.control.step)
            walk.optimizer.zero_grad()
            output = model(IMAGES)
            loss = (output - 3 * torch.randn(output.shape, generator=noise)).square().mean()
            (loss + walk.control.penalty()).backward()
            walk.optimizer.step()

    return walk, train


def test_every_member_is_held_to_this() -> None:
    public = {cure for cure in vars(cures).values() if inspect.isclass(cure)} - {qs.Cure}
    assert public == set(MAKE)
    assert all(issubclass(cure, qs.Cure) for cure in public)


def test_the_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        qs.Cure()  # pyright: ignore[reportAbstractUsage]


@every_cure
def test_a_penalty_is_a_finite_scalar_or_nothing_and_changes_nothing(make: Make) -> None:
    model = prepared_network()
    cure = make(0.15)
    walk, train = trained(model, cure)
    train(3)
    before = copy.deepcopy((walk.control.state_dict(), dict(model.state_dict())))
    first, second = cure.penalty(3), cure.penalty(3)
    if first is not None:
        assert isinstance(second, Tensor)
        assert first.shape == ()
        assert first.isfinite()
        assert first.requires_grad
        assert torch.equal(first, second)
    assert_same_state((walk.control.state_dict(), dict(model.state_dict())), before)


@every_cure
def test_it_acts(make: Make) -> None:
    model = prepared_network()
    plain = copy.deepcopy(model)
    for network, made in ((model, [make(0.15)]), (plain, [])):
        walk, train = trained(network, *made)
        train(20)
        walk.control.finish()
        assert all(value.isfinite().all() for value in network.state_dict().values())
    assert not torch.equal(model[0].weight, plain[0].weight)


@pytest.mark.parametrize("kind", SCHEDULED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("off", [lambda step: None, lambda step: 0.0], ids=["None", "0"])
def test_off_it_is_as_if_it_were_not_there(kind: type[qs.Cure], off: ScheduleLike) -> None:
    if kind is qs.TRS and off(0) == 0:
        pytest.skip("0 is a target: no transitions")
    model = prepared_network()
    plain = copy.deepcopy(model)
    trained(model, MAKE[kind](off))[1](6)
    trained(plain)[1](6)
    assert_same_state(dict(model.state_dict()), dict(plain.state_dict()))


@every_cure
@pytest.mark.parametrize(
    "steps", [6, 18, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 8))]
)
def test_a_run_that_is_resumed_goes_on_with_the_same_bits(make: Make, steps: int) -> None:
    model = prepared_network()
    walk, train = trained(model, make(0.15))
    train(steps)
    other = copy.deepcopy(model)
    walk_on, train_on = trained(other, make(0.15))  # a cure that has seen nothing
    saved = through_a_file([walk.control.state_dict(), walk.optimizer.state_dict()])
    walk_on.control.load_state_dict(saved[0])
    walk_on.optimizer.load_state_dict(saved[1])
    assert_same_state(walk_on.control.state_dict(), walk.control.state_dict())
    train(7)
    train_on(7)
    for one in (walk, walk_on):
        one.control.finish()
    assert_same_state(dict(other.state_dict()), dict(model.state_dict()))
    assert_same_state(walk_on.control.state_dict(), walk.control.state_dict())
    assert walk_on.control.report() == walk.control.report()


@every_cure
def test_the_state_of_another_cure_is_refused(make: Make) -> None:
    walk, _ = trained(prepared_network(), make(0.15))
    bare, _ = trained(prepared_network())
    if walk.control.state_dict()["cures"] or walk.tracker.state_dict()["followed"]:
        with pytest.raises(TrackingError, match="same cures"):
            bare.control.load_state_dict(walk.control.state_dict())


@every_cure
def test_it_keeps_as_much_for_a_weight_as_it_says(make: Make) -> None:
    count = 640  # a whole number of rows
    bare, walk = Walk(one_layer(count)), Walk(one_layer(count), [cure := make(0.15)], total=2000)
    walk.optimizer.param_groups[0]["lr"] = 1.0  # there is no gradient
    walk.at_random(5)
    kept = walk.tracker.state_bytes() - bare.tracker.state_bytes()
    kept += sum(tensor.nbytes for tensor in tensors(vars(cure)))
    assert kept / count == pytest.approx(cure.bytes_per_weight, abs=0.1)
    saved = sum(tensor.nbytes for tensor in tensors(cure.state_dict()))
    assert saved / count <= cure.bytes_per_weight


def tensors(value: Any, seen: set[int] | None = None) -> list[Tensor]:
    """All tensors that an object of quiesce holds of its own: no weights, tracker or blocks."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors(each, seen)]
    return []


@every_cure
def test_what_is_frozen_or_locked_stays_for_whole_steps(make: Make) -> None:
    model = prepared_network()
    walk, train = trained(model, make(0.15))
    train(4)
    locked, *others = walk.weights
    locked.latent.requires_grad_(False)
    for scale in locked.scale_parameters:
        scale.requires_grad_(False)
    before = locked.latent.clone(), locked.codes(), locked.scale.clone()
    for weight in others:
        weight.freeze(torch.rand(weight.latent.shape) < 0.3, weight.codes())
    pinned = [(weight.frozen, weight.codes()) for weight in others]
    train(12)
    walk.control.finish()
    for weight, (frozen, codes) in zip(others, pinned, strict=True):
        assert weight.frozen[frozen].all()
        assert torch.equal(weight.codes()[frozen], codes[frozen])
        assert torch.equal(weight.latent[frozen], (weight.scale * codes)[frozen])
    assert_same_state((locked.latent.detach(), locked.codes(), locked.scale), before)


@every_cure
def test_after_the_tracker_it_moves_nothing_that_is_free(make: Make) -> None:
    model = prepared_network()
    cure = make(0.15)
    walk, train = trained(model, cure)
    train(7)
    before = [w.latent.clone() for w in walk.weights]
    cure.after_step(walk.control.step)
    for weight, latent in zip(walk.weights, before, strict=True):
        assert torch.equal(weight.latent[~weight.frozen], latent[~weight.frozen])


@every_cure
def test_before_the_tracker_it_changes_no_record(make: Make) -> None:
    model = prepared_network()
    cure = make(0.15)
    walk, train = trained(model, cure)
    train(7)
    before = [weight.history.clone() for weight in walk.weights]
    cure.before_step(7, {})
    cure.after_update(7)
    assert_same_state([weight.history for weight in walk.weights], before)


@every_cure
def test_it_can_serve_one_run_after_another(make: Make) -> None:
    cure = make(0.15)
    runs = []
    for used in (cure, cure, make(0.15)):
        torch.manual_seed(7)
        model = prepared_network()
        walk, train = trained(model, used)
        train(6)
        walk.control.close()
        runs.append(dict(model.state_dict()))
    assert_same_state(runs[0], runs[1])
    assert_same_state(runs[0], runs[2])


@pytest.mark.parametrize("kind", MAKE, ids=lambda kind: kind.__name__)
def test_it_goes_with_the_others(kind: type[qs.Cure]) -> None:
    model = prepared_network()
    others = [make(0.15) for other, make in MAKE.items() if other is not kind]
    walk, train = trained(model, MAKE[kind](0.15), *others)
    train(6)
    walk.control.finish()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert walk.control.step == 6


def everything_on(cure: qs.Cure) -> None:
    """Call it as in a step, without a control."""
    cure.penalty(0)
    cure.before_step(0, {})
    cure.after_update(0)
    cure.after_step(0)
    cure.finish()


@every_cure
def test_it_needs_a_control_first(make: Make) -> None:
    with pytest.raises(TrackingError, match=r"quiesce\.Control"):
        everything_on(make(0.15))
