"""Optimizers of other libraries: each training step counts once, or Control refuses."""

import copy
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import accelerate
import lightning
import pytest
import timm.optim
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import NothingToDoError, TrackingError
from quiesce.lightning import QuiesceCallback
from support.loops import IMAGES, Loop
from support.small_networks import prepared_network, small_network
from support.states import assert_same_state

STEPS = 10


def cures() -> list[qs.Cure]:
    """Freezing to the code of the step itself, which adds no flip of its own."""
    return [qs.Freezing(0.5, average=None, max_frozen=None)]


def assert_counts_once(loop: Loop, step: Callable[[], Any], steps: int = STEPS) -> None:
    """The tracker's steps, flips and oscillations are those of a count by brute force."""
    codes = before = None
    flips = {weight.name: 0 for weight in loop.weights}
    for number in range(steps):
        step()
        assert (loop.control.step, loop.tracker.steps) == (number + 1, number + 1)
        before, codes = codes, {w.name: w.codes() for w in loop.weights}
        if before is not None:
            for name in flips:
                flips[name] += int((codes[name] != before[name]).sum())
    assert sum(flips.values()) > 0
    for report in loop.tracker.report():
        assert report.flips_per_step * (steps - 1) == pytest.approx(flips[report.name])
    for weight in loop.weights:
        pinned = weight.scale * weight.codes()
        assert torch.equal(weight.latent[weight.frozen], pinned[weight.frozen])


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, written from its paper (arXiv:2010.01412)."""

    def __init__(self, params: Iterable[Any], lr: float, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)
        self._moves: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def first_step(self) -> None:
        found = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in found]).norm() + 1e-12
        self._moves = [(p, p.grad * (self.defaults["rho"] / norm)) for p in found]
        for parameter, move in self._moves:
            parameter.add_(move)

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter, move in self._moves:
            parameter.sub_(move)
        self.base_optimizer.step()

    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


def closure_of(loop: Loop) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loop.optimizer.zero_grad()
        loss = loop.loss() + loop.control.penalty()
        loss.backward()
        return loss

    return closure


def test_sam_with_a_closure_counts_once() -> None:
    loop = Loop(cures(), SAM)
    closure = closure_of(loop)
    assert_counts_once(loop, lambda: loop.optimizer.step(closure))


def test_sam_in_two_steps_counts_once_on_its_base_optimizer() -> None:
    loop = Loop(cures(), SAM)
    loop.control.close()
    tracker = qs.OscillationTracker(loop.weights, 0.2)
    loop.tracker = tracker
    loop.control = qs.Control(loop.optimizer.base_optimizer, loop.weights, tracker, cures())
    closure = closure_of(loop)

    def step() -> None:
        closure()
        loop.optimizer.first_step()
        closure()
        loop.optimizer.second_step()

    assert_counts_once(loop, step)


def test_a_step_that_nothing_calls_is_told_with_the_numbers() -> None:
    loop = Loop(cures(), SAM)
    assert loop.tracker.summary().flips_per_step == 0  # nothing has moved: nothing to tell
    closure = closure_of(loop)
    closure()
    loop.optimizer.first_step()
    loop.optimizer.second_step()  # not step(), which Control listens to
    with pytest.warns(UserWarning, match="0 optimizer steps"):
        loop.tracker.summary()
    with pytest.warns(UserWarning, match="0 optimizer steps"):
        loop.tracker.report()


class Thrice(torch.optim.Optimizer):
    """An optimizer whose step takes three steps of another one."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.inner = torch.optim.SGD(self.param_groups, lr=lr)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for _ in range(3):
            self.inner.step()


def test_several_inner_steps_count_once() -> None:
    loop = Loop(cures(), Thrice)
    assert_counts_once(loop, loop.step)


def test_timms_lookahead_counts_once() -> None:
    def lookahead(parameters: Any, lr: float) -> Any:
        return timm.optim.Lookahead(torch.optim.SGD(parameters, lr=lr), k=3)

    loop = Loop(cures(), lookahead)
    for step in range(STEPS):
        loop.step()
        assert loop.control.step == loop.tracker.steps == step + 1
    assert loop.tracker.summary().total_oscillations > 0


def schedule_free(parameters: Any, lr: float) -> Any:
    made = pytest.importorskip("schedulefree").AdamWScheduleFree(parameters, lr=lr)
    made.train()
    return made


def galore(parameters: Any, lr: float) -> Any:
    library = pytest.importorskip("galore_torch")
    parameters = list(parameters)
    flat = [p for p in parameters if p.dim() == 2]
    rest = [p for p in parameters if p.dim() != 2]
    low_rank = {"rank": 2, "update_proj_gap": 3, "scale": 1.0, "proj_type": "std"}
    groups = [{"params": rest}, {"params": flat, **low_rank}]
    return library.GaLoreAdamW(groups, lr=lr, no_deprecation_warning=True)


def eight_bit(parameters: Any, lr: float) -> Any:
    return pytest.importorskip("bitsandbytes").optim.Adam8bit(parameters, lr=lr, min_8bit_size=16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [schedule_free, galore, eight_bit])
def test_an_optimizer_of_another_library_counts_once(make: Callable[..., Any]) -> None:
    loop = Loop(cures(), make, lr=0.05)
    assert_counts_once(loop, loop.step)
    if hasattr(loop.optimizer, "eval"):  # Schedule-Free shows its averages while it evaluates
        codes = [weight.codes() for weight in loop.weights]
        loop.optimizer.eval()
        for weight, before in zip(loop.weights, codes, strict=True):
            assert torch.equal(weight.codes()[weight.frozen], before[weight.frozen])


def accelerator(**options: Any) -> accelerate.Accelerator:
    for state in AcceleratorState, GradientState, PartialState:
        state._reset_state()
    return accelerate.Accelerator(cpu=True, **options)


@pytest.mark.parametrize("wrapped_first", [True, False])
def test_an_accelerated_optimizer_is_unwrapped(wrapped_first: bool) -> None:
    plain, loop = Loop(cures()), Loop(cures())
    accelerating = accelerator(gradient_accumulation_steps=2)
    raw = loop.optimizer
    model, loop.optimizer = accelerating.prepare(loop.model, raw)
    if wrapped_first:
        loop.control.close()
        loop.tracker = qs.OscillationTracker(loop.weights, 0.2)
        loop.control = qs.Control(loop.optimizer, loop.weights, loop.tracker, cures())
    for _ in range(STEPS):
        plain.step()
        for _half in range(2):  # the same batch twice, accumulated
            with accelerating.accumulate(model):
                accelerating.backward(loop.loss())
                loop.optimizer.step()
                loop.optimizer.zero_grad()
    assert loop.control.step == STEPS
    assert_same_state(loop.tracker.state_dict(), plain.tracker.state_dict())
    assert_same_state(dict(loop.model.state_dict()), dict(plain.model.state_dict()))


def with_control_of(loop: Loop, optimizer: Any) -> Loop:
    """The loop with another optimizer, as a wrapper gave it."""
    assert optimizer is not loop.optimizer
    loop.control.close()
    loop.optimizer = optimizer
    loop.tracker = qs.OscillationTracker(loop.weights, 0.2)
    loop.control = qs.Control(optimizer, loop.weights, loop.tracker, cures())
    return loop


def test_fabrics_optimizer_is_unwrapped() -> None:
    loop = Loop(cures())
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    _, optimizer = fabric.setup(loop.model, loop.optimizer)
    with_control_of(loop, optimizer)
    assert_counts_once(loop, loop.step)


@pytest.mark.parametrize("of", [lightning.fabric.strategies, lightning.pytorch.strategies])
def test_strategies_of_lightning_that_keep_weights_elsewhere_are_refused(of: Any) -> None:
    """The wrapped optimizers of such strategies; the strategies themselves need accelerators."""
    model = prepared_network()
    weights = qs.quantized_weights(model)
    for strategy in of.FSDPStrategy, of.DeepSpeedStrategy:
        made = strategy.__new__(strategy)
        raw = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapped = _FabricOptimizer(raw, made)
        with pytest.raises(TrackingError, match=strategy.__name__):
            qs.Control(wrapped, weights, qs.OscillationTracker(weights))
        trainer = lightning.Trainer(accelerator="cpu", logger=False)
        trainer._accelerator_connector.strategy = made
        with pytest.raises(TrackingError, match=strategy.__name__):
            QuiesceCallback().on_train_start(trainer, ByHand(Loop()))


class ByHand(lightning.LightningModule):
    """A module that steps by hand and makes a `Control` of what `self.optimizers()` returns."""

    automatic_optimization = False

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop, self.network = loop, loop.model

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.loop.optimizer

    def training_step(self, _: Any) -> None:
        with_control_of(self.loop, self.optimizers())
        assert_counts_once(self.loop, self.loop.step)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about workers and modules in eval mode
def test_lightnings_optimizer_is_unwrapped() -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet
    )
    module = ByHand(Loop(cures()))
    trainer.fit(module, torch.utils.data.DataLoader([0]))
    assert module.loop.control.step == STEPS


class Outer:
    """A wrapper that is no optimizer and moves weights itself, as ScheduleFreeWrapper does."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base
        self.param_groups = base.param_groups


class Unhooked(torch.optim.Optimizer):
    """An optimizer that does not call the constructor of its base class."""

    def __init__(self, params: Iterable[Any]) -> None:
        self.param_groups = [{"params": list(params)}]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize("kind", [Outer, Unhooked])
def test_steps_that_can_not_be_counted_are_refused(kind: type) -> None:
    model = prepared_network()
    weights = qs.quantized_weights(model)
    given = (
        Outer(torch.optim.SGD(model.parameters()))
        if kind is Outer
        else Unhooked(model.parameters())
    )
    with pytest.raises(TrackingError, match=kind.__name__):
        qs.Control(given, weights, qs.OscillationTracker(weights))


@pytest.mark.slow
def test_a_compiled_step_counts_as_a_plain_one() -> None:
    def loop() -> Loop:
        torch.manual_seed(11)
        bits = {"0": {"weight_bits": 2}, "6": {"weight_bits": 8}}
        return Loop(cures(), model=prepared_network(overrides=bits))

    compiled, plain = loop(), loop()
    step = torch.compile(compiled.optimizer.step, backend="aot_eager")
    compiled.optimizer.step = step
    assert_counts_once(compiled, compiled.step)
    for _ in range(STEPS):
        plain.step()
    for mine, theirs in zip(compiled.tracker.report(), plain.tracker.report(), strict=True):
        assert mine.flips_per_step == theirs.flips_per_step
        assert mine.total_oscillations == theirs.total_oscillations


def grouped_by_dimensions(model: nn.Module) -> list[dict[str, Any]]:
    return timm.optim.param_groups_weight_decay(model, 0.1)


def test_decay_of_scales_that_nobody_asked_for_is_told() -> None:
    model = prepared_network(per_channel=True)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights)
    for given in (
        torch.optim.SGD(grouped_by_dimensions(model), lr=0.1),
        torch.optim.AdamW(model.parameters()),
    ):
        with pytest.warns(UserWarning, match=r"parameter_groups\(model, weight_decay"):
            qs.Control(given, weights, tracker).close()
    scales = qs.quantizer_parameters(model)
    known = {id(scale) for scale in scales}
    others = [p for p in model.parameters() if id(p) not in known]
    asked = [{"params": others}, {"params": scales}]
    qs.Control(torch.optim.AdamW(asked), weights, tracker).close()


def test_parameter_groups_decay_weights_alone() -> None:
    model = prepared_network(per_channel=True, act_bits=3)
    model[3].bias.requires_grad_(False)
    groups = qs.parameter_groups(model, weight_decay=0.1, scale_lr=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.5)
    weights = qs.quantized_weights(model)
    qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    decayed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert decayed == {"0.weight", "3.weight", "6.weight"}
    given = [p for group in groups for p in group["params"]]
    expected = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(given) == len(expected)
    assert {id(p) for p in given} == expected
    scales = {id(scale) for scale in qs.quantizer_parameters(model)}
    assert [g.get("lr") for g in groups if id(g["params"][0]) in scales] == [1e-4]


def test_parameter_groups_of_a_float_model_are_refused() -> None:
    with pytest.raises(NothingToDoError):
        qs.parameter_groups(small_network(), weight_decay=0.1)
    with pytest.raises(ValueError, match="weight_decay"):
        qs.parameter_groups(prepared_network(), weight_decay=-1.0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda all: pickle.loads(pickle.dumps(all))])
def test_a_copied_control_listens_to_its_own_optimizer(copied: Callable[[Any], Any]) -> None:
    model = prepared_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = qs.quantized_weights(model)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), cures())
    again = copied((model, optimizer, control))
    model(IMAGES).sum().backward()
    optimizer.step()
    assert [control.step, again[2].step] == [1, 0]
    again[0](IMAGES).sum().backward()
    again[1].step()
    assert [control.step, again[2].step] == [1, 1]
    control.close()
    copied((model, optimizer, control))[1].step()
    assert control.step == 1
