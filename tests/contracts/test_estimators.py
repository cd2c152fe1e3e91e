"""What every estimator promises; a new one is added to MEMBERS."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import quiesce as qs
from quiesce.arithmetic import estimators
from quiesce.arithmetic.fake_quantize import Rule, quantize_backward, quantize_forward
from quiesce.arithmetic.kernels import FUSED
from quiesce.recipes.estimator_section import KINDS, READ_BY
from quiesce.recipes.reading import read_recipe, write_recipe
from support.small_networks import Walk, weights_only

MEMBERS: list[qs.Estimator] = [
    qs.STE(),
    qs.EWGS(delta=0.7),
    qs.DSQ(alpha=0.3),
    qs.StackedSigmoid(slope=4.0),
    qs.PSG(scaling=3.0),
    qs.StableQAT(amplitude=0.1),
    qs.StochasticRounding(),
    qs.Hysteresis(width=0.5),
    qs.QEMA(beta=0.9),
]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: type(member).__name__)


def members_of(*names: str) -> pytest.MarkDecorator:
    """These members, each compiled in one of three tests; all but the first are slow."""
    chosen = [
        pytest.param(member, marks=() if type(member).__name__ == names[0] else pytest.mark.slow)
        for member in MEMBERS
        if type(member).__name__ in names
    ]
    return pytest.mark.parametrize("member", chosen, ids=lambda member: type(member).__name__)


every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
GRID = qs.Grid(4, signed=True)
IMAGES = torch.rand(4, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    """Forget the kernels of other members: torch gives up after eight of one function."""
    torch._dynamo.reset()


def network(member: qs.Estimator) -> tuple[nn.Module, Walk]:
    """A prepared network of two linear layers, and what keeps its history."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    qs.prepare(model, weights_only(estimator=member), IMAGES)
    return model, Walk(model)


def trained(member: qs.Estimator, steps: int = 4) -> tuple[nn.Module, Walk]:
    """The same after some steps of descent at a high rate, so that codes have moved."""
    torch.manual_seed(0)
    model, walk = network(member)
    walk.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(steps):
        walk.optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        walk.optimizer.step()
    return model, walk


def aid(member: qs.Estimator, u: Tensor) -> dict[str, Tensor]:
    """What the member's rounding is handed besides `u`."""
    noise, previous = torch.rand_like(u), (u + torch.rand_like(u) - 0.5).round()
    return ({"noise": noise} if member.needs_noise else {}) | (
        {"previous": previous} if member.needs_history else {}
    )


def test_every_member_is_held_to_this() -> None:
    classes = [value for value in vars(estimators).values() if inspect.isclass(value)]
    assert set(classes) - {qs.Estimator} == {type(member) for member in MEMBERS}
    assert all(issubclass(each, qs.Estimator) for each in classes)
    assert set(classes) <= {getattr(qs, name) for name in qs.__all__}


def test_the_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        qs.Estimator()  # pyright: ignore[reportAbstractUsage]


@every_member
@every_dtype
def test_rounds_to_a_neighbour_on_the_grid(member: qs.Estimator, dtype: torch.dtype) -> None:
    u = (torch.randn(1000) * 5).to(dtype)
    for given in ({}, aid(member, u)):
        rounded = member.round(u, **given)
        assert (rounded.shape, rounded.dtype) == (u.shape, dtype)
        assert torch.equal(rounded, rounded.round())
        assert ((rounded - u).abs() <= 1).all()


@every_member
def test_integers_stay_as_they_are(member: qs.Estimator) -> None:
    u = torch.arange(-8.0, 9.0)
    given = aid(member, u) | ({"previous": u} if member.needs_history else {})
    assert torch.equal(member.round(u, **given), u)


@every_member
def test_without_noise_and_history_it_rounds_to_nearest(member: qs.Estimator) -> None:
    u = torch.cat([torch.randn(1000) * 5, torch.tensor([0.5, 1.5, -0.5])])
    assert torch.equal(member.round(u), u.round())


@every_member
@every_dtype
def test_a_gradient_keeps_shape_dtype_and_sign(member: qs.Estimator, dtype: torch.dtype) -> None:
    grad, u = torch.randn(2, 7, 30).to(dtype)
    code = u.round()
    out = member.gradient(grad, u, code)
    assert (out.shape, out.dtype) == (u.shape, dtype)
    assert (out * grad >= 0).all()
    assert torch.equal(member.gradient(2 * grad, u, code), 2 * out)  # a power of 2: exact


@every_member
@every_dtype
@pytest.mark.parametrize("clip", ["range", "grid", "round"])
def test_outside_the_clip_the_gradient_is_zero(
    member: qs.Estimator, dtype: torch.dtype, clip: Any
) -> None:
    x = torch.tensor([-90.0, -9.0, 1.3, 9.0, 90.0], dtype=dtype, requires_grad=True)
    out = qs.fake_quantize(x, torch.tensor(1.0), GRID, clip=clip, estimator=member)
    assert out.tolist() == [-8, -8, 1, 7, 7]
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert (x.grad != 0).tolist() == [False, False, True, False, False]


@every_member
def test_is_a_value_that_can_be_saved(member: qs.Estimator) -> None:
    for twin in (pickle.loads(pickle.dumps(member)), copy.deepcopy(member)):
        assert (twin, hash(twin)) == (member, hash(member))
    with pytest.raises(AttributeError):
        member.anything = 1  # pyright: ignore[reportAttributeAccessIssue]


@every_member
def test_two_forwards_in_inference_give_the_same_also_after_training(member: qs.Estimator) -> None:
    model, _ = trained(member)
    model.eval()
    first = model(IMAGES)
    assert torch.equal(model(IMAGES), first)
    assert torch.equal(copy.deepcopy(model)(IMAGES), first)
    assert torch.equal(qs.strip(model)(IMAGES), first)


@every_member
def test_tracker_strip_and_inference_see_the_same_codes(member: qs.Estimator) -> None:
    model, walk = trained(member)
    model.eval()
    plain = qs.strip(model)
    for weight in walk.weights:
        kept = weight.history.clone()
        values = plain.get_submodule(weight.name).weight
        emitted = weight.module.weight_quantizer(weight.latent)
        assert torch.equal(weight.codes() * weight.scale, values)
        assert torch.equal(emitted, values)
        assert torch.equal(weight.history, kept)


@every_member
def test_training_is_the_same_again_at_the_same_seed(member: qs.Estimator) -> None:
    states = [trained(member)[0].state_dict() for _ in range(2)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@every_member
def test_training_goes_on_from_a_copy_as_from_the_model(member: qs.Estimator) -> None:
    model, _ = trained(member)
    twin = copy.deepcopy(model)
    results = []
    for each in (model, twin):
        torch.manual_seed(1)
        loss = each(IMAGES).square().sum()
        results.append(torch.autograd.grad(loss, list(each.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@members_of("STE", "EWGS", "StackedSigmoid")
def test_compiles_whole_to_equal_values(member: qs.Estimator) -> None:
    model, _ = trained(member)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run in (model, compiled):
        torch.manual_seed(1)
        output = run(IMAGES)
        gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()))
        results.append([output, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@members_of("DSQ", "PSG", "StableQAT")
def test_fused_passes_give_the_same_codes_and_gradients(member: qs.Estimator) -> None:
    x, grad = torch.randn(2, 400)
    rest = (torch.tensor(0.3), None, torch.tensor([-8.0, 7.0]), None, Rule("range", member))
    assert torch.equal(FUSED.forward(x, *rest), quantize_forward(x, *rest))
    fused, plain = FUSED.backward(grad, x, *rest), quantize_backward(grad, x, *rest)
    torch.testing.assert_close(fused.x, plain.x)
    torch.testing.assert_close(fused.scale, plain.scale)


@every_member
def test_one_kernel_serves_all_sizes_and_equal_estimators(member: qs.Estimator) -> None:
    counter = CompileCounter()
    run = torch.compile(quantize_forward, fullgraph=True, dynamic=True, backend=counter)
    scale, limits = torch.tensor(0.3), torch.tensor([-8.0, 7.0])
    for size in (5, 9, 33, 120):
        rule = Rule("range", copy.deepcopy(member))
        run(torch.randn(size), scale, None, limits, None, rule)
    assert counter.frame_count == 1


@pytest.mark.slow
@members_of("StochasticRounding", "Hysteresis", "QEMA")
def test_tracks_and_trains_with_fused_passes(member: qs.Estimator) -> None:
    plain, _ = trained(member)
    torch.manual_seed(0)
    model, walk = network(member)
    qs.compile(model, "quantizers")
    walk.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(4):
        walk.optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        walk.optimizer.step()
    for weight, expected in zip(walk.weights, qs.quantized_weights(plain), strict=True):
        assert torch.equal(weight.history, expected.history)
        # sums over a layer are rounded otherwise, and four steps at a high rate carry that on: some
        # 1e-7 a step times the way they went; a wrong factor on a gradient shows in whole scales
        off = (weight.latent - expected.latent).abs() / weight.scale
        assert (off <= 1e-3).all()


@every_member
def test_a_recipe_names_it_and_its_number(member: qs.Estimator) -> None:
    [kind] = [kind for kind, made in KINDS.items() if made is type(member)]
    flags = [f"--scheme.estimator.kind={kind}"]
    flags += [
        f"--scheme.estimator.{name}={getattr(member, name)}"
        for name, reader in READ_BY.items()
        if reader == kind
    ]
    recipe = read_recipe("mnist_lsq_w3a3", flags)
    assert recipe.scheme.scheme().estimator == member


@every_member
def test_a_recipe_with_it_is_written_and_read_back(member: qs.Estimator, tmp_path) -> None:
    [kind] = [kind for kind, made in KINDS.items() if made is type(member)]
    recipe = read_recipe("mnist_lsq_w3a3", [f"--scheme.estimator.kind={kind}"])
    assert recipe.scheme.scheme().estimator == type(member)()  # the defaults are the same
    file = tmp_path / "again.yaml"
    file.write_text(write_recipe(recipe))
    assert read_recipe(str(file)) == recipe
