"""What `quiesce.attach` promises for every toolkit; `make test-stacks` runs it with all of them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.errors import DivergedError
from quiesce.inference import batch_norms
from quiesce.stacks.attached import Attached
from support.stacks import IMAGES, LABELS, WORLDS, World
from support.states import assert_same_state, through_a_file

# toolkits and their tracing warn of much that is not about us
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 25

every_world = pytest.mark.parametrize(
    "world",
    [
        pytest.param(
            each,
            id=each.name,
            marks=pytest.mark.skipif(not each.installed, reason=f"{each.package} not installed"),
        )
        for each in WORLDS
    ],
)


class Loop:
    """A network in training, with momentum and weight decay, which push frozen weights."""

    def __init__(self, world: World, *cures: qs.Cure, state: object = None) -> None:
        self.model = model = world.build()
        if state is not None:
            model.load_state_dict(state)
        self.weights = world.attach(model)
        scales = [scale for weight in self.weights for scale in weight.scale_parameters]
        known = {id(scale) for scale in scales}
        others = [each for each in model.parameters() if id(each) not in known]
        groups = [{"params": others, "weight_decay": 1e-4}]
        groups += [{"params": scales, "lr": 5e-5}] if scales else []
        self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        self.tracker = qs.OscillationTracker(self.weights, momentum=0.2)
        self.control = qs.Control(self.optimizer, self.weights, self.tracker, cures)

    def step(self) -> None:
        number = torch.Generator().manual_seed(self.control.step)
        images = IMAGES + 0.3 * torch.randn(IMAGES.shape, generator=number)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(images), LABELS) + self.control.penalty()
        loss.backward()
        self.optimizer.step()

    def freeze_half(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Freeze half of the weights; return masks and codes by layer."""
        coin = torch.Generator().manual_seed(3)
        for weight in self.weights:
            half = torch.rand(weight.latent.shape, generator=coin) < 0.5
            weight.freeze(half, weight.codes())
        return {w.name: (w.frozen.clone(), w.codes().clone()) for w in self.weights}


def violations(weights: Attached, frozen: dict[str, tuple[Tensor, Tensor]]) -> int:
    """Frozen weights whose latent, rounded by the toolkit without our hooks, has another code."""
    count = 0
    for weight in weights:
        mask, codes = frozen[weight.name]
        count += int((weight.site.read().codes[mask] != codes[mask]).sum())
    return count


def state_of(model: nn.Module) -> dict[str, object]:
    return copy.deepcopy(dict(model.state_dict()))


@every_world
def test_reading_changes_no_state_and_no_random_number(world: World) -> None:
    model = world.build()
    before, random = state_of(model), torch.random.get_rng_state()
    outputs = copy.deepcopy(model)(IMAGES)
    weights = world.attach(model)
    assert world.learned == any(weight.scale_parameters for weight in weights)
    for weight in weights:
        weight.codes(), weight.quantized(), weight.scale, weight.frozen, weight.grid
    assert_same_state(state_of(model), before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(model(IMAGES), outputs)


@every_world
def test_the_codes_after_a_step_are_those_of_the_next_forward(world: World) -> None:
    loop = Loop(world)
    seen: dict[str, Tensor] = {}

    def note(name: str):
        def change(value: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
            seen[name] = torch.round(value / scale + zero_point).detach().to(torch.int16)
            return value

        return change

    handles = [weight.site.on_output(note(weight.name)) for weight in loop.weights]
    if None in handles:
        pytest.skip("this toolkit has no module that quantizes weights")
    for _ in range(6):
        loop.step()
        codes = {weight.name: weight.codes().to(torch.int16) for weight in loop.weights}
        seen.clear()
        loop.model(IMAGES)
        assert_same_state(dict(sorted(seen.items())), dict(sorted(codes.items())))


@every_world
def test_frozen_weights_keep_their_codes(world: World) -> None:
    loop = Loop(world)
    loop.step()
    frozen = loop.freeze_half()
    free = {w.name: w.latent.detach().clone() for w in loop.weights}
    for _ in range(STEPS):
        loop.step()
        assert violations(loop.weights, frozen) == 0
    for weight in loop.weights:
        mask, codes = frozen[weight.name]
        assert 0.3 < mask.float().mean() < 0.7
        assert torch.equal(weight.codes()[mask], codes[mask])
        assert not torch.equal(weight.latent[~mask], free[weight.name][~mask])


@every_world
def test_a_frozen_weight_has_no_gradient(world: World) -> None:
    loop = Loop(world)
    if None in [weight.site.on_output(lambda value, *_: value) for weight in loop.weights]:
        pytest.skip("this toolkit has no module that quantizes weights")
    loop.step()
    frozen = loop.freeze_half()
    loop.optimizer.zero_grad()
    cross_entropy(loop.model(IMAGES), LABELS).backward()
    for weight in loop.weights:
        mask, _ = frozen[weight.name]
        assert not weight.latent.grad[mask].any()
        assert weight.latent.grad[~mask].any()


@every_world
def test_conversion_loses_no_frozen_code(world: World, tmp_path: Path) -> None:
    loop = Loop(world)
    loop.step()
    loop.freeze_half()
    for _ in range(STEPS):
        loop.step()
    if world.convert is None:
        pytest.skip("no conversion to read")
    loop.weights.before_convert()
    audit = qs.audit(loop.weights, world.convert(loop.model, tmp_path))
    assert sum(layer.frozen for layer in audit.layers) > 300 * (len(loop.weights) > 1)
    assert audit.frozen_lost == 0
    assert audit.changed == 0, str(audit)


@every_world
def test_saved_and_loaded_it_goes_on_with_the_same_bits(world: World) -> None:
    loop = Loop(world, qs.Freezing(0.15, max_frozen=None), qs.Dampening(1e-4))
    for _ in range(4):
        loop.step()
    loop.freeze_half()
    for _ in range(4):
        loop.step()
    saved = through_a_file(
        copy.deepcopy(
            {
                "model": loop.model.state_dict(),
                "control": loop.control.state_dict(),
                "optimizer": loop.optimizer.state_dict(),
            }
        )
    )
    cures = qs.Freezing(0.15, max_frozen=None), qs.Dampening(1e-4)
    other = Loop(world, *cures, state=saved["model"])
    other.control.load_state_dict(saved["control"])
    other.optimizer.load_state_dict(saved["optimizer"])
    for _ in range(3):
        loop.step()
        other.step()
    assert_same_state(dict(other.model.state_dict()), dict(loop.model.state_dict()))
    assert_same_state(other.control.state_dict(), loop.control.state_dict())


@pytest.mark.slow
@every_world
def test_a_compiled_network_sees_what_is_frozen_later(world: World) -> None:
    if not world.compiles:
        pytest.skip("another network of this toolkit is compiled, or it can not be")
    torch._dynamo.reset()  # it compiles a function only a few times
    model = world.build()
    weights = world.attach(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=world.fullgraph)
    model.eval()
    compiled(IMAGES)
    for weight in weights:
        grid = weight.grid
        codes = torch.full(weight.latent.shape, grid.quant_max)
        weight.freeze(torch.ones_like(codes, dtype=torch.bool), codes)
        assert bool((weight.codes() == grid.quant_max).all())
    before, outputs = state_of(model), compiled(IMAGES)
    model.load_state_dict(before)  # observers of PT2E move in evaluation too
    torch.testing.assert_close(outputs, model(IMAGES))


@every_world
def test_dampening_pulls_every_latent_to_its_code(world: World) -> None:
    loop = Loop(world, qs.Dampening(1.0))
    loop.control.penalty().backward()
    for weight in loop.weights:
        now = weight.site.read()
        low, high = (end * weight.scale for end in weight.limits)
        inside = (weight.held >= low) & (weight.held <= high)
        off = weight.held - weight.scale * weight.codes()
        pull = 2 * off * (1 if now.fold is None else now.fold)
        expected = torch.where(inside, pull, 0.0).expand_as(weight.latent)
        torch.testing.assert_close(weight.latent.grad, expected)


@every_world
def test_batch_norms_are_reestimated_and_steps_are_watched(world: World) -> None:
    loop = Loop(world)
    loop.step()
    watch = qs.Watch(loop.model)
    loss = cross_entropy(loop.model(IMAGES), LABELS)
    loss.backward()
    watch.check(loss)
    if not batch_norms(loop.model):
        pytest.skip("there is no batch norm, or it is an operator of a graph")
    codes = {weight.name: weight.codes() for weight in loop.weights}
    moved = qs.reestimate_batchnorm(loop.model, [IMAGES])
    assert all(bool(kl.isfinite().all()) for kl in moved.values())
    assert_same_state({weight.name: weight.codes() for weight in loop.weights}, codes)
    with pytest.raises(DivergedError):
        watch.check(torch.tensor(float("nan")))
