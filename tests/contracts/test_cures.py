"""What every cure promises, whatever it does; a new member of quiesce.cures is added to MAKE."""

import copy
import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import quiesce as qs
from quiesce import cures
from quiesce.schedules import ScheduleLike
from support.small_networks import Walk, prepared_network
from support.states import assert_same_state

MAKE: dict[type[qs.Cure], Callable[[float | ScheduleLike], qs.Cure]] = {
    qs.Dampening: qs.Dampening,
    qs.Freezing: partial(qs.Freezing, max_frozen=None),
}
every_cure = pytest.mark.parametrize("make", MAKE.values(), ids=[kind.__name__ for kind in MAKE])
Make = Callable[[float | ScheduleLike], qs.Cure]
IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def trained(model: torch.nn.Module, *made: qs.Cure) -> tuple[Walk, Callable[[int], None]]:
    """A control with these cures, and what takes so many steps towards ever other targets."""
    walk = Walk(model, made, momentum=0.2)
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
    trained(model, make(0.15))[1](20)
    trained(plain)[1](20)
    for network in (model, plain):
        assert all(value.isfinite().all() for value in network.state_dict().values())
    assert not torch.equal(model[0].weight, plain[0].weight)


@every_cure
@pytest.mark.parametrize("off", [lambda step: None, lambda step: 0.0], ids=["None", "0"])
def test_off_it_is_as_if_it_were_not_there(make: Make, off: ScheduleLike) -> None:
    model = prepared_network()
    plain = copy.deepcopy(model)
    trained(model, make(off))[1](6)
    trained(plain)[1](6)
    assert_same_state(dict(model.state_dict()), dict(plain.state_dict()))


@every_cure
def test_its_state_lives_in_weights_and_tracker(make: Make) -> None:
    model = prepared_network()
    walk, train = trained(model, make(0.15))
    train(5)
    other = copy.deepcopy(model)
    walk_on, train_on = trained(other, make(0.15))  # a cure that has seen nothing
    walk_on.control.load_state_dict(walk.control.state_dict())
    walk_on.optimizer.load_state_dict(copy.deepcopy(walk.optimizer.state_dict()))
    train(5)
    train_on(5)
    assert_same_state(dict(other.state_dict()), dict(model.state_dict()))
    assert_same_state(walk_on.control.state_dict(), walk.control.state_dict())


@every_cure
def test_what_is_frozen_stays_and_what_is_free_is_not_moved_after_the_step(make: Make) -> None:
    model = prepared_network()
    cure = make(0.15)
    walk, train = trained(model, cure)
    train(4)
    for weight in walk.weights:
        weight.freeze(torch.rand(weight.latent.shape) < 0.3, weight.codes())
    pinned = [(w.frozen, w.codes()) for w in walk.weights]
    train(3)
    before = [w.latent.clone() for w in walk.weights]
    cure.after_step(walk.control.step)
    for weight, (frozen, codes), latent in zip(walk.weights, pinned, before, strict=True):
        assert weight.frozen[frozen].all()
        assert torch.equal(weight.codes()[frozen], codes[frozen])
        assert torch.equal(weight.latent[frozen], (weight.scale * weight.codes())[frozen])
        assert torch.equal(weight.latent[~weight.frozen], latent[~weight.frozen])


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


@every_cure
def test_it_goes_with_the_others(make: Make) -> None:
    model = prepared_network()
    walk, train = trained(model, make(0.15), *(other(0.15) for other in MAKE.values()))
    train(6)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert walk.control.step == 6
