"""Control in a plain training loop, and in all that happens to one."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import TrackingError
from support.loops import IMAGES, Loop
from support.messages import telling
from support.small_networks import prepared_network
from support.states import assert_same_state, through_a_file


def cures() -> list[qs.Cure]:
    return [qs.Dampening(0.05), qs.Freezing(0.3, max_frozen=None)]


def test_a_plain_loop_acts_once_a_step() -> None:
    loop = Loop(cures())
    for step in range(12):
        assert (loop.control.step, loop.tracker.steps) == (step, step)
        loop.step()
    summary = loop.tracker.summary()
    assert summary.total_oscillations > 0
    assert 0 < summary.frozen < 1


def test_gradient_accumulation_is_the_same_run() -> None:
    whole, halves = Loop(cures(), momentum=0.9), Loop(cures(), momentum=0.9)
    for _ in range(10):
        whole.step()
        halves.optimizer.zero_grad()
        noise = torch.Generator().manual_seed(100 * halves.control.step)
        targets = 3 * torch.randn(8, 5, generator=noise)
        for images, target in zip(IMAGES.split(4), targets.split(4), strict=True):
            loss = (halves.model(images) - target).square().mean() + halves.control.penalty()
            (loss / 2).backward()
        halves.optimizer.step()
        assert halves.control.step == whole.control.step
    for one, two in zip(whole.weights, halves.weights, strict=True):
        # sums of halves round otherwise; a code would differ only beside a threshold
        torch.testing.assert_close(one.latent, two.latent, rtol=1e-3, atol=1e-5)
        assert torch.equal(one.codes(), two.codes())
        assert torch.equal(one.frozen, two.frozen)
        frequencies = (loop.tracker.frequency(one.name) for loop in (whole, halves))
        assert torch.equal(*frequencies)


def test_several_forwards_in_a_step_count_once() -> None:
    once, often = Loop(cures()), Loop(cures())
    for _ in range(6):
        once.step()
        often.model(IMAGES[:3])
        with torch.no_grad():
            often.model(IMAGES)
        often.step()
        often.model.train(False)(IMAGES)
    assert_same_state(often.state(), once.state())


def test_activation_checkpointing_counts_once() -> None:
    plain, recomputed = Loop(cures()), Loop(cures())
    inner = recomputed.model[3]
    forward = inner.forward
    inner.forward = lambda x: torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=False)
    plain.train(6)
    recomputed.train(6)
    assert_same_state(recomputed.state(), plain.state())


def test_evaluation_in_between_leaves_every_state_bit_for_bit() -> None:
    loop = Loop(cures())
    loop.train(7)
    before = loop.state()
    loop.model.eval()
    with torch.no_grad():
        for images in IMAGES.split(2):
            loop.model(images)
    loop.tracker.report()
    qs.strip(loop.model)(IMAGES)
    assert_same_state(loop.state(), before)
    undisturbed = Loop(cures())
    undisturbed.train(10)
    loop.train(3)
    assert_same_state(loop.state(), undisturbed.state())


def test_bfloat16_autocast_changes_no_code_of_its_own() -> None:
    loop = Loop(cures())
    for _ in range(8):
        loop.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loop.loss()
            emitted = loop.model[0].weight_quantizer(loop.model[0].latent)
        assert emitted.dtype == torch.float32
        [first, *_] = loop.weights
        assert torch.equal(emitted, first.scale * first.codes())
        (loss + loop.control.penalty()).backward()
        loop.optimizer.step()
    assert loop.control.step == 8
    summary = loop.tracker.summary()
    assert summary.total_oscillations > 0
    assert all(value.isfinite().all() for value in loop.model.state_dict().values())
    for weight in loop.weights:
        assert torch.equal(weight.latent[weight.frozen], pinned(weight)[weight.frozen])


def pinned(weight: qs.QuantizedWeight) -> Tensor:
    return weight.scale * weight.codes()


@pytest.mark.parametrize("fused", [False, True], ids=["skipped", "told by found_inf"])
def test_a_step_that_the_scaler_skips_is_no_step(fused: bool) -> None:
    def loop() -> Loop:
        return Loop(cures(), torch.optim.SGD, momentum=0.9, fused=fused)

    smooth, bumpy = loop(), loop()
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2)]

    def step(one: Loop, scaler: torch.amp.GradScaler, factor: float) -> None:
        one.optimizer.zero_grad()
        scaler.scale((one.loss() + one.control.penalty()) * factor).backward()
        scaler.step(one.optimizer)
        scaler.update(2.0**10)

    for turn in range(8):
        step(smooth, scalers[0], 1.0)
        step(bumpy, scalers[1], 1.0)
        if turn in (0, 3, 4):
            before = bumpy.state()
            step(bumpy, scalers[1], float("inf"))
            assert_same_state(bumpy.state(), before)
    assert smooth.control.step == bumpy.control.step == 8
    assert smooth.tracker.summary().total_oscillations > 0
    assert_same_state(bumpy.state(), smooth.state())


def two_optimizers(loop: Loop) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Scales apart from all the rest, under one control."""
    loop.control.close()
    scales = qs.quantizer_parameters(loop.model)
    others = [p for p in loop.model.parameters() if all(p is not scale for scale in scales)]
    optimizers = torch.optim.SGD(others, lr=0.02), torch.optim.SGD(scales, lr=0.02)
    loop.control = qs.Control(optimizers, loop.weights, loop.tracker, loop.control.cures)
    return optimizers


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_optimizers_are_one_step(order: tuple[int, int]) -> None:
    single, double = Loop(cures()), Loop(cures())
    optimizers = two_optimizers(double)
    for step in range(8):
        single.step()
        double.model.zero_grad()
        (double.loss() + double.control.penalty()).backward()
        optimizers[order[0]].step()
        assert double.control.step == step  # not before the last of them
        optimizers[order[1]].step()
        assert double.control.step == step + 1
    assert_same_state(dict(double.model.state_dict()), dict(single.model.state_dict()))
    assert_same_state(double.tracker.state_dict(), single.tracker.state_dict())


def test_one_of_two_optimizers_may_be_skipped() -> None:
    loop = Loop(cures()[1:])
    weights, scales = two_optimizers(loop)
    for step in range(8):
        loop.model.zero_grad()
        loop.loss().backward()
        weights.step()
        assert loop.control.step == step
        if step % 2 == 0:  # as a scaler may do, in every other step
            scales.step()
            assert loop.control.step == step + 1
    assert loop.tracker.steps == 7  # the eighth is over when something tells
    weights.step()
    assert loop.tracker.steps == 8


def test_a_run_goes_on_between_its_two_optimizers() -> None:
    def play(loop: Loop, optimizers: Sequence[torch.optim.Optimizer], steps: str) -> None:
        for one in steps:
            if one == "w":
                loop.model.zero_grad()
                loop.loss().backward()
            optimizers["ws".index(one)].step()

    whole, first = Loop(cures()[1:]), Loop(cures()[1:])
    play(whole, two_optimizers(whole), "wswsws" + "w" + "wswsws")
    play(first, two_optimizers(first), "wswsws" + "w")  # the scales were skipped when it is saved
    second = Loop(cures()[1:], model=copy.deepcopy(first.model))
    optimizers = two_optimizers(second)
    second.control.load_state_dict(through_a_file(first.control.state_dict()))
    play(second, optimizers, "wswsws")
    assert whole.control.step == 7
    assert_same_state(second.control.state_dict(), whole.control.state_dict())
    assert_same_state(dict(second.model.state_dict()), dict(whole.model.state_dict()))


@pytest.mark.filterwarnings("ignore:the optimizer applies weight decay")
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_and_momentum_move_nothing_that_is_frozen(decay: float) -> None:
    loop = Loop([qs.Freezing(0.3, max_frozen=None)], momentum=0.9, weight_decay=decay)
    latents = [weight.latent for weight in loop.weights]
    loop.train(6)
    for weight in loop.weights:
        weight.freeze(torch.ones_like(weight.latent, dtype=torch.bool), weight.codes())
    for parameter in loop.model.parameters():  # scales, biases and norms are given
        parameter.requires_grad_(any(parameter is latent for latent in latents))
        parameter.grad = None
    output = loop.model(IMAGES)
    moments = [loop.optimizer.state[latent]["momentum_buffer"] for latent in latents]
    assert all(moment.any() for moment in moments)
    loop.train(6)
    assert torch.equal(loop.model(IMAGES), output)
    for weight in loop.weights:
        assert torch.equal(weight.latent, pinned(weight))


@pytest.mark.parametrize("where", ["forward", "backward", "pre_hook", "step"])
def test_an_exception_in_mid_step_is_no_step_and_the_next_one_is_fine(where: str) -> None:
    whole, broken = Loop(cures()), Loop(cures())
    whole.train(4)
    broken.train(4)
    before = broken.state()

    class Accident(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Accident

    handle: Any = None
    if where == "forward":
        handle = broken.model[3].register_forward_pre_hook(fail)
    elif where == "backward":
        handle = broken.model[3].register_full_backward_hook(fail)
    elif where == "pre_hook":
        handle = broken.optimizer.register_step_pre_hook(fail)
    else:
        broken.optimizer.param_groups[0]["lr"] = "a mistake"
    with pytest.raises((Accident, TypeError)):
        broken.step()
    if handle is not None:
        handle.remove()
    broken.optimizer.param_groups[0]["lr"] = 0.02
    assert_same_state(broken.state(), before)
    assert broken.model[3].weight is broken.model[3].latent
    whole.train(4)
    broken.train(4)
    assert_same_state(broken.state(), whole.state())


def test_closures_count_once_however_often_they_are_called() -> None:
    loop = Loop([qs.Dampening(0.05)], torch.optim.LBFGS, max_iter=4, lr=0.1)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        loop.optimizer.zero_grad()
        loss = loop.loss() + loop.control.penalty()
        loss.backward()
        return loss

    for step in range(3):
        loop.optimizer.step(closure)
        assert loop.control.step == step + 1
    assert calls > 6


def test_the_penalty_is_the_sum_of_those_of_the_cures() -> None:
    one, two = qs.Dampening(0.5), qs.Dampening(0.25, "mean")
    loop = Loop([one, qs.Freezing(0.3, max_frozen=None), two])
    loop.train(2)
    terms = one.penalty(2), two.penalty(2)
    assert terms[0] is not None
    assert terms[1] is not None
    assert torch.equal(loop.control.penalty(), torch.stack(terms).sum())
    assert Loop().control.penalty().item() == 0


def test_a_closed_control_does_nothing_more() -> None:
    loop = Loop(cures())
    loop.train(5)
    loop.control.close()
    loop.control.close()
    history = [weight.history.clone() for weight in loop.weights]
    state = loop.control.state_dict()
    loop.train(3)
    assert_same_state(loop.control.state_dict(), state)
    assert_same_state([weight.history for weight in loop.weights], history)


@pytest.mark.parametrize("cut_at", [0, 1, 6])
def test_a_run_goes_on_from_files_bit_for_bit(cut_at: int) -> None:
    def run() -> Loop:
        schedule = qs.cosine(0.6, 0.1, total=12)
        return Loop(
            [qs.Dampening(qs.linear(0, 0.1, 12)), qs.Freezing(schedule, max_frozen=None)],
            momentum=0.9,
        )

    whole, first, second = run(), run(), run()
    whole.train(12)
    first.train(cut_at)
    network, optimizer, control = (through_a_file(state) for state in first.state())
    second.train(3)  # what the second has done before does not matter
    second.model.load_state_dict(network)
    second.optimizer.load_state_dict(optimizer)
    second.control.load_state_dict(control)
    second.train(12 - cut_at)
    assert whole.tracker.summary().frozen > 0
    assert_same_state(second.state(), whole.state())


def test_an_optimizer_of_another_network_is_refused() -> None:
    loop = Loop()
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(TrackingError, match="moves none of these weights"):
        qs.Control(stranger, loop.weights, loop.tracker)


def test_a_tracker_of_other_weights_is_refused() -> None:
    loop, other = Loop(), Loop()
    with pytest.raises(TrackingError, match="tracker follows other weights"):
        qs.Control(loop.optimizer, loop.weights, other.tracker)
    partial = qs.OscillationTracker(loop.weights[:1])
    with pytest.raises(TrackingError, match="tracker follows other weights"):
        qs.Control(loop.optimizer, loop.weights, partial)


def test_the_state_of_more_optimizers_is_refused() -> None:
    double, single = Loop(), Loop()
    two_optimizers(double)
    with pytest.raises(TrackingError, match=telling("2 optimizers", "1")):
        single.control.load_state_dict(double.control.state_dict())


def test_a_refused_control_leaves_no_hook() -> None:
    loop = Loop()
    loop.control.close()
    loop.train(1)
    loop.tracker.step()
    with pytest.raises(TrackingError, match="attach cures before"):
        qs.Control(loop.optimizer, loop.weights, loop.tracker, [qs.Freezing(0.1, max_frozen=None)])
    steps = loop.tracker.steps
    loop.train(1)
    assert loop.tracker.steps == steps


def test_an_optimizer_made_before_prepare_is_refused() -> None:
    model = prepared_network()
    float_parameters = [weight.latent for weight in qs.quantized_weights(model)]
    weights = qs.quantized_weights(model)
    optimizer, tracker = torch.optim.SGD(float_parameters, lr=0.1), qs.OscillationTracker(weights)
    with pytest.raises(TrackingError, match=r"moves the scale .* make the optimizer after quiesce"):
        qs.Control(optimizer, weights, tracker, [])
    for scale in qs.quantizer_parameters(model):
        scale.requires_grad_(False)
    qs.Control(optimizer, weights, tracker, [])


@pytest.mark.parametrize(
    ("cures", "advice"),
    [
        (qs.Freezing(0.02), r"cures=\[quiesce\.Freezing"),
        ("freeze", r"got 'freeze'; pass for example cures=\[quiesce\.Freezing\(0\.02\)\]"),
        ([qs.Dampening], r"got a class, Dampening; make one of it: cures=\[quiesce\.Dampening"),
        ([qs.Freezing(0.02), None], "got a NoneType"),
        (None, "got a NoneType"),
    ],
)
def test_cures_that_are_no_list_of_cures_are_refused(cures: object, advice: str) -> None:
    model = prepared_network()
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(TypeError, match=advice):
        qs.Control(optimizer, weights, qs.OscillationTracker(weights), cures)
    optimizer.step()  # no hook is left behind
