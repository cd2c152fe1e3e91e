"""Numbers that go wrong: seen in their step, named by layer, then told or stopped."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import quiesce as qs
from quiesce.errors import DivergedError
from quiesce.health.watching import LOOK_EVERY, MOST_SKIPPED, SMALL
from support.messages import telling, tells
from support.processes import together
from support.small_networks import prepared_network, small_network, weights_only
from support.states import assert_same_state, through_a_file

IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(5))
LR = 1e-4


class Loop:
    """A training loop with a watch; `images` and `spoil` are what a test breaks."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.model, self.watch = model, qs.Watch(model, **options)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.5)
        self.spoil: Callable[[Tensor], Tensor] = lambda loss: loss

    def step(self, images: Tensor = IMAGES) -> None:
        loss = self.spoil(self.model(images).square().mean())
        self.optimizer.zero_grad()
        loss.backward()
        self.watch.check(loss, lambda: self.model(images))
        self.optimizer.step()

    def stops(self, *parts: object, **options: Any) -> None:
        """The next step raises an error with these in its message, and takes nothing with it."""
        before = copy.deepcopy(dict(self.model.named_parameters()))
        with pytest.raises(DivergedError, match=telling(*parts)) as raised:
            self.step(**options)
        assert len(str(raised.value).splitlines()) == 1
        for name, value in self.model.named_parameters():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


class Overflowing(nn.Module):
    """Squares what comes in, `times` times: large activations, finite weights."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = (x + 10).square()
        return x


def network() -> nn.Sequential:
    """A prepared network in which no layer's input is dead."""
    model = small_network()
    model[3].bias.data.fill_(1.0)
    qs.prepare(model, weights_only(act_bits=4), IMAGES)
    return qs.calibrate(model, [IMAGES])


def test_a_sound_training_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    watched = Loop(network())
    plain = copy.deepcopy(watched.model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR, momentum=0.5)
    for _ in range(5):
        watched.step()
        optimizer.zero_grad()
        plain(IMAGES).square().mean().backward()
        optimizer.step()
    watched.watch.settle()
    assert watched.watch.step == 5
    assert not caplog.records
    assert_same_state(dict(watched.model.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_in_its_step(value: float) -> None:
    loop = Loop(network())
    loop.step()
    loop.spoil = lambda loss: loss * value
    loop.stops("loss", value, "step 1", "every layer")


def test_what_comes_from_the_batch_is_put_down_to_it() -> None:
    loop = Loop(prepared_network())
    images = IMAGES.clone()
    images[1, 2, 3, 3] = torch.nan
    loop.stops("step 0", "input", "layer '0'", "batch", images=images)


def test_a_layer_whose_output_overflows_is_named() -> None:
    model = small_network()
    model.insert(5, Overflowing())
    qs.prepare(model, qs.Scheme(act_bits=None), IMAGES)
    loop = Loop(model)
    loop.step()
    model[5].times = 8  # 10^256
    loop.stops("step 1", "output", "layer '5'", "float32")


def test_looking_for_the_layer_leaves_statistics_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Dropout(), *network())
    loop = Loop(model)
    loop.spoil = lambda loss: loss * torch.nan
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    twin(IMAGES)
    expected = torch.rand(3)
    torch.manual_seed(1)
    loop.stops("loss is nan")
    assert torch.equal(torch.rand(3), expected)
    assert_same_state(dict(model.named_buffers()), dict(twin.named_buffers()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_stops_with_the_layer(value: float) -> None:
    loop = Loop(network())
    loop.model[3].weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor(2), value))
    loop.stops("gradient", "step 0", "layer '3'", "(3.weight)")


def test_a_gradient_that_is_only_large_is_none_of_ours() -> None:
    loop = Loop(network())
    loop.model[3].weight.register_hook(lambda grad: torch.full_like(grad, 1e30))
    loop.step()  # the norm is inf, each number is finite


@pytest.mark.parametrize("which", ["weight_quantizer", "input_quantizer"])
def test_a_scale_that_is_not_finite_stops_with_the_layer(which: str) -> None:
    loop = Loop(network())
    loop.step()
    loop.model[3].get_submodule(which).scale.data.fill_(torch.inf)
    loop.stops("step 1", "scale", "layer '3'", f"(3.{which}.scale)")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return messages


def test_a_scale_toward_zero_is_told_once_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(network())
    scale = loop.model[3].weight_quantizer.scale
    for _ in range(3):
        scale.data.fill_(0.0)
        loop.step()
        assert all(value.isfinite().all() for value in loop.model.state_dict().values())
    [message] = told(caplog)
    assert tells(message, "weight scale", "layer '3'", "step 0")


@pytest.mark.parametrize(("part", "tells"), [(0.9, 1), (1.1, 0)])
def test_small_is_by_what_the_scale_was_at_first(part, tells, caplog) -> None:
    loop = Loop(network())
    scale = loop.model[3].input_quantizer.scale
    scale.data.mul_(part * SMALL)
    loop.step()
    assert len(told(caplog)) == tells


def test_a_negative_scale_counts_as_its_magnitude_and_is_told(caplog) -> None:
    loop = Loop(network())
    scale = loop.model[3].weight_quantizer.scale
    before = loop.model.eval()(IMAGES)
    scale.data.neg_()
    assert torch.equal(loop.model(IMAGES), before)
    loop.step()
    [message] = told(caplog)
    assert tells(message, "weight scale", "layer '3'", "below 0", "step 0")


def test_a_negative_scale_learns_as_its_mirror_image() -> None:
    model = network()
    twin = copy.deepcopy(model)
    twin[3].weight_quantizer.scale.data.neg_()
    loops = [Loop(each) for each in (model, twin)]
    for _ in range(3):
        for loop in loops:
            loop.step()
    scales = [loop.model[3].weight_quantizer.scale for loop in loops]
    assert torch.equal(scales[1], -scales[0])


def test_a_dead_input_is_named_and_survived(caplog) -> None:
    loop = Loop(network())
    loop.step()
    norm = loop.model[1]
    norm.weight.data.zero_()
    norm.bias.data.fill_(-1.0)  # the rectifier behind it lets nothing through
    scale = loop.model[3].input_quantizer.scale.detach().clone()
    for _ in range(3):
        loop.step()
    [message] = told(caplog)
    assert tells(message, "input", "layer '3'", "step 1")
    assert all(value.isfinite().all() for value in loop.model.state_dict().values())
    drift = LR * 2 * 10  # what momentum goes on to apply of one gradient of at most 10
    assert (loop.model[3].input_quantizer.scale - scale).abs() < drift


def test_a_dead_input_is_named_in_calibration(caplog) -> None:
    model = small_network()
    model[1].bias.data.fill_(-100.0)
    qs.prepare(model, qs.Scheme(), IMAGES)
    qs.calibrate(model, [IMAGES])
    assert tells(told(caplog)[0], "3.input", "zeros", "scale is 1")
    assert model[3].input_quantizer.scale == 1


def test_a_gradient_of_zero_alone_is_no_dead_input(caplog) -> None:
    loop = Loop(network())
    looks = []
    forward = loop.model[0].register_forward_hook(lambda *_: looks.append(1))
    loop.spoil = lambda loss: loss * 0
    for _ in range(LOOK_EVERY + 2):
        loop.step()
    forward.remove()
    assert not told(caplog)
    assert len(looks) == LOOK_EVERY + 2 + 1  # it looked once, and the gradient stayed 0


class Half(Loop):
    """The loop in float16, with a GradScaler."""

    def __init__(self, model: nn.Module, scale: float = 2.0**8) -> None:
        super().__init__(model, scaled=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def step(self, images: Tensor = IMAGES) -> None:
        loss = self.forward(images).float().square().mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.watch.check(loss, lambda: self.forward(images))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return self.model(images)


def test_a_step_that_overflows_float16_is_skipped_counted_and_survived(caplog) -> None:
    loop = Half(network(), scale=2.0**40)
    before = copy.deepcopy(dict(loop.model.named_parameters()))
    with caplog.at_level(logging.INFO):
        loop.step()
    assert loop.watch.skipped == 1
    assert "step 0 is skipped, float16 overflowed" in told(caplog)[0]
    for name, value in loop.model.named_parameters():
        assert torch.equal(value, before[name])
    while loop.watch.step < 40:
        loop.step()
    assert 1 < loop.watch.skipped < 40
    assert not torch.equal(loop.model[0].weight, before["0.weight"])
    assert not any("float16" in each for each in told(caplog))  # no news in the same row


def test_an_overflow_of_activations_is_named_and_does_not_stay_in_batch_norm(caplog) -> None:
    model = network()
    loop = Half(model)
    loop.step()
    weight = model[0].weight
    weight.data, kept = weight.data.abs() * 1e6, weight.data.clone()
    model[0].weight_quantizer.scale.data.mul_(1e6)
    loop.step()
    messages = told(caplog)
    assert any("the output of the layer '0' (float16) is the first" in each for each in messages)
    assert any("statistics of the batch norm '1'" in each for each in messages)
    assert model[1].running_mean.isfinite().all()
    weight.data = kept
    model[0].weight_quantizer.scale.data.mul_(1e-6)
    loop.step()
    loop.watch.settle()
    assert loop.watch.skipped == 1


def test_too_many_skipped_steps_in_a_row_stop() -> None:
    loop = Half(network())
    loop.model[0].weight_quantizer.scale.data.mul_(1e9)
    loop.model[0].weight.data.mul_(1e9)
    for _ in range(MOST_SKIPPED - 1):
        loop.step()
    loop.stops(f"step {MOST_SKIPPED - 1}", f"{MOST_SKIPPED - 1} before", "skipped")


def test_a_broken_weight_is_not_skipped_over() -> None:
    loop = Half(network())
    loop.model[3].weight.data[0] = torch.nan
    loop.stops("step 0", "weight", "layer '3'", "(3.weight)")


def test_on_an_accelerator_a_step_is_judged_at_the_next_one() -> None:
    loop = Loop(network())
    loop.watch.late = True
    loop.step()
    loop.spoil = lambda loss: loss * torch.nan
    loop.step()
    loop.stops("loss is nan", "step 1", "scale")


@pytest.mark.parametrize("broken", ["0.weight", "1.running_var", "3.input_quantizer.scale"])
def test_nothing_broken_is_saved(broken: str) -> None:
    loop = Loop(network())
    loop.step()
    loop.model.state_dict()[broken].fill_(torch.inf)
    with pytest.raises(DivergedError, match=rf"before step 1 a \w+ of the layer .*\({broken}\)"):
        loop.watch.settle()


def test_it_settles_what_is_pending() -> None:
    loop = Loop(network())
    loop.watch.late = True
    loop.spoil = lambda loss: loss * torch.nan
    loop.step()
    with pytest.raises(DivergedError, match="the loss is nan at step 0"):
        loop.watch.settle()


def test_what_is_pending_is_in_its_state() -> None:
    loop = Half(network())
    loop.model[0].weight_quantizer.scale.data.mul_(1e9)
    loop.model[0].weight.data.mul_(1e9)
    loop.watch.late = True
    loop.step()
    state = loop.watch.state_dict()
    assert (state["step"], state["skipped"], state["in_a_row"]) == (1, 1, 1)
    assert_same_state(loop.watch.state_dict(), state)  # judged once


def test_it_goes_on_from_a_file(caplog) -> None:
    loop = Loop(network())
    loop.model[3].weight_quantizer.scale.data.neg_()
    loop.step()
    again = Loop(loop.model)
    again.watch.load_state_dict(through_a_file(loop.watch.state_dict()))
    assert_same_state(again.watch.state_dict(), loop.watch.state_dict())
    told(caplog)
    again.step()
    assert not told(caplog)  # negative, as is known
    assert again.watch.step == 2


def test_a_float_network_can_be_watched_too() -> None:
    loop = Loop(small_network())
    loop.step()
    loop.spoil = lambda loss: loss * torch.nan
    loop.stops("loss is nan", "step 1")


def test_names_are_shown_without_the_prefix() -> None:
    loop = Loop(nn.Sequential(network()), prefix="0.")
    loop.model[0][3].weight.register_hook(lambda grad: grad * torch.nan)
    loop.stops("layer '3'", "(3.weight)")


def test_all_weights_of_a_layer_may_be_frozen(caplog) -> None:
    loop = Loop(network())
    weights = qs.quantized_weights(loop.model)
    tracker = qs.OscillationTracker(weights, 0.5)
    freezing = qs.Freezing(1e-9, max_frozen=None)
    control = qs.Control(loop.optimizer, weights, tracker, [freezing, qs.Dampening(0.1)])
    loop.spoil = lambda loss: loss + control.penalty()
    loop.step()
    all_of_it = torch.ones_like(weights[1].latent, dtype=torch.bool)
    weights[1].freeze(all_of_it, weights[1].codes())
    codes, scale = weights[1].codes(), weights[1].scale.clone()
    for _ in range(3):
        loop.step()
    assert torch.equal(weights[1].codes(), codes)
    assert not torch.equal(weights[1].scale, scale)  # it goes on learning
    assert tracker.report()[1].frozen == 1
    assert all(value.isfinite().all() for value in loop.model.state_dict().values())


def one_rank_breaks(rank: int) -> list[str]:
    told = []
    for wrap in (DistributedDataParallel, lambda model: model):
        torch.manual_seed(0)
        loop = Loop(wrap(network()))
        loop.step()
        if rank == 1:
            loop.spoil = lambda loss: loss * torch.nan
        try:
            loop.step()
        except DivergedError as error:
            told.append(str(error))
    return told


def test_all_ranks_stop_alike_where_one_breaks(tmp_path: Path) -> None:
    one, two = together(one_rank_breaks, 2, tmp_path)
    assert one == two
    assert len(one) == 2  # with gradients that are averaged, and each by itself
    for told in one:
        assert tells(told, "loss is nan", "rank 1 of 2", "step 1")
