"""Weights split over processes by FSDP2: what one process does with whole weights, part by part."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.fsdp import fully_shard

import quiesce as qs
from parallel.test_many_processes import BATCH, batch
from quiesce.cures.frozen_limit import EVERY
from quiesce.errors import FreezingError, PrepareError, TrackingError
from quiesce.parallel.split_weights import is_split
from quiesce.recipes.sections import RecordingConfig
from quiesce.training.recording.recorder import Recorder
from support.messages import telling
from support.processes import together
from support.small_networks import small_network, weights_only
from support.states import assert_same_state

BEFORE, AFTER = 30, 20  # steps before and after the checkpoint; no pair of distances is cut
TOTAL = 60  # steps of a training to a target
EXACT = {"rtol": 1e-11, "atol": 1e-12}  # 50 steps in float64, sums in another order


def network(norm: str = "none", **changes: Any) -> nn.Module:
    torch.manual_seed(5)
    model = small_network()
    if norm == "none":
        model[1] = nn.Identity()
    # a convolution of one output channel: one process holds all of it, another nothing
    model.insert(0, nn.Conv2d(3, 1, 1)).insert(1, nn.Conv2d(1, 3, 1))
    return qs.prepare(model, weights_only(**changes), torch.zeros(1, 3, 6, 6)).double()


def split(model: nn.Module) -> nn.Module:
    whole = qs.keep_whole(model)
    fully_shard(model[-1], ignored_params=whole)
    return fully_shard(model, ignored_params=whole)


class Training:
    """A plain loop with cures, of whole weights in one process or of split ones in many."""

    def __init__(
        self,
        rank: int = 0,
        world: int | None = None,
        freezing: qs.Freezing | None = None,
        **changes: Any,
    ) -> None:
        self.model = network(**changes)
        self.share = slice(rank, None, world)
        if world is not None:
            split(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.5)
        weights = qs.quantized_weights(self.model)
        tracker = qs.OscillationTracker(weights, 0.2, distance=qs.DistanceSampling(None, 2))
        cures = [qs.Dampening(0.01, "kernel_mean"), freezing or qs.Freezing(0.15, max_frozen=None)]
        if freezing is None:
            cures += [qs.TRS(0.05), qs.OsciReset(2.0, period=7, window=5)]
            cures += [qs.QRamping(1.0, 2, period=6, window=3)]
        self.control = qs.Control(self.optimizer, weights, tracker, cures, total=TOTAL)

    def steps(self, count: int) -> "Training":
        for _ in range(count):
            images, targets = batch(self.control.step, torch.float64)
            self.optimizer.zero_grad()
            loss = (self.model(images[self.share]) - targets[self.share]).square().mean()
            (loss + self.control.penalty()).backward()
            self.optimizer.step()
        return self

    def state(self) -> dict[str, Any]:
        momenta = {
            str(i): values["momentum_buffer"]
            for i, values in enumerate(self.optimizer.state_dict()["state"].values())
        }
        control = self.control.state_dict()
        return {"model": self.model.state_dict(), "control": control, "momenta": momenta}

    def load(self, folder: Path) -> "Training":
        """A state must have its momenta before they can be read into."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        learning = [(group, group["lr"]) for group in self.optimizer.param_groups]
        for group, _ in learning:
            group["lr"] = 0.0
        self.control.penalty()  # else the control warns that the loss has no penalty
        self.optimizer.step()
        for group, lr in learning:
            group["lr"] = lr
        state = self.state()
        # whole weights have half a pair of positions to go on from, split ones have not
        planner = checkpoint.DefaultLoadPlanner(allow_partial_load=True)
        alone = not distributed.is_initialized()
        checkpoint.load(state, checkpoint_id=folder, planner=planner, no_dist=alone)
        self.model.load_state_dict(state["model"])
        self.control.load_state_dict(state["control"])
        return self

    def whole(self) -> dict[str, Any]:
        report, summary = self.control.tracker.report(), self.control.tracker.summary()
        return {**qs.whole(self.state()), "report": report, "summary": summary}


def assert_alike(one: Any, two: Any) -> None:
    """Integers equal, floats up to the order of sums."""
    if isinstance(one, Tensor) and one.is_floating_point():
        # frequencies and averages are float32 sums over the steps, the rest is float64
        sums = {"rtol": 0.0, "atol": (BEFORE + AFTER) * 2**-24 * float(two.abs().amax())}
        loose = sums if one.dtype == torch.float32 else EXACT
        torch.testing.assert_close(one, two, **loose)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key == "sums":  # distances among them: sums of float32 differences
                torch.testing.assert_close(value, two[key], rtol=1e-6, atol=1e-6)
            else:
                assert_alike(value, two[key])
    elif isinstance(one, qs.LayerReport):
        assert_alike(vars(one), vars(two))
    elif isinstance(one, list | tuple):
        for mine, theirs in zip(one, two, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=1e-6)
    else:
        assert_same_state(one, two)


def drop_strides(state: dict[str, Any]) -> dict[str, Any]:
    """Where a half pair of positions lay: only whole weights go on from it."""
    state["control"]["tracker"]["distance"] = None
    return state


def train_split(rank: int, world: int, folder: Path, loads: bool) -> dict[str, Any]:
    """Trains, saves or loads in the middle, and gives back what it came to, put together."""
    told: dict[str, Any] = {}
    for per_channel in (False, True):
        file = folder / f"per_channel_{per_channel}"
        run = Training(rank, world, per_channel=per_channel)
        if loads:
            run.load(file)
        else:
            run.steps(BEFORE)
            checkpoint.save(run.state(), checkpoint_id=file)
            run.whole()  # reading in between disturbs nothing
            # a new network goes on where this one was saved, in as many processes
            again = Training(rank, world, per_channel=per_channel).load(file)
            assert_same_state(drop_strides(again.whole()), drop_strides(run.whole()))
        run.steps(AFTER)
        qs.verify_ranks(run.control)
        whole = run.whole()
        told[file.name] = drop_strides(whole)
        told["bytes"] = run.control.tracker.state_bytes()
        told["held"] = sum(w.held.numel() for w in run.control.weights)
        assert all(is_split(w.latent) for w in run.control.weights)
    if not loads:
        assert_orders_are_refused()
        # of every layer each holds at most its half, which alone is below the limit of 0.6
        with pytest.raises(FreezingError, match=telling(f"step {EVERY}", "60 %")):
            Training(rank, world, qs.Freezing(1e-6)).steps(EVERY + 1)
        with pytest.raises(TrackingError, match=r"^0: a Recorder .* split over processes"):
            Recorder(folder, run.model, run.control, RecordingConfig(), total=1)
    return told


def train_to_target(rank: int, world: int | None) -> list[dict[str, Any]]:
    """Trains under freezing with a target; gives back what it has done."""
    freezing = qs.Freezing(target=0.1, max_frozen=None)
    run = Training(rank, world, freezing).steps(TOTAL)
    if world is not None:
        qs.verify_ranks(run.control)
    return run.control.report()


@pytest.mark.slow
def test_a_target_sets_the_same_thresholds_in_any_number_of_processes(tmp_path: Path) -> None:
    reports = together(train_to_target, 2, tmp_path, 2)
    [whole] = train_to_target(0, None)
    assert whole["frozen"] > 0
    for [report] in reports:
        assert report == whole


def assert_orders_are_refused() -> None:
    with pytest.raises(PrepareError, match=telling("0: ", "keep_whole")):
        qs.prepare(fully_shard(small_network()), weights_only(), torch.zeros(1, 3, 6, 6))
    with pytest.raises(PrepareError, match=telling("0: ", "split", "already")):
        qs.keep_whole(split(network()))
    with pytest.raises(PrepareError, match=telling("0: ", "scale", "ignored_params=")):
        # one scale for each channel is a parameter that fully_shard does take
        qs.quantized_weights(fully_shard(network(per_channel=True)))
    model = network()
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights)
    split(model)
    with pytest.raises(TrackingError, match=telling("0: ", "tracker", "fully_shard")):
        tracker.step()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.slow
@pytest.mark.parametrize("worlds", [(2, 4)])
def test_split_weights_train_as_whole_ones_and_checkpoints_load_in_any_number_of_processes(
    worlds: tuple[int, ...], tmp_path: Path
) -> None:
    """The first world saves; another world and one process alone go on from its files."""
    files = tmp_path / "files"
    groups = [
        together(train_split, world, tmp_path / str(world), world, files, world != worlds[0])
        for world in worlds
    ]
    for per_channel in (False, True):
        name = f"per_channel_{per_channel}"
        expected = drop_strides(Training(per_channel=per_channel).steps(BEFORE + AFTER).whole())
        frozen = expected["summary"].frozen
        assert 0.05 < frozen < 0.95
        alone = Training(per_channel=per_channel).load(files / name).steps(AFTER)
        for got in (group[rank] for group in groups for rank in (0, -1)):
            assert_alike(got[name], expected)
        assert_alike(drop_strides(alone.whole()), expected)
    whole = sum(w.latent.numel() for w in Training().control.weights)
    for group in groups:
        assert sum(told["held"] for told in group) == whole
        for told in group:  # 9 bytes a weight, and rows of 64 begun by each of the layers
            assert told["bytes"] <= 9 * (told["held"] + 64 * 5)


def measure(rank: int, world: int) -> dict[str, Any]:
    """Ranges and batch-norm statistics, each process with batches of its own."""
    told: dict[str, Any] = {}
    for how in ("split", "ddp"):
        model = network("plain", act_bits=4)
        ready = split(model) if how == "split" else nn.parallel.DistributedDataParallel(model)
        mine = [batch(step, torch.float64)[0][rank::world] for step in range(5)]
        qs.calibrate(ready, mine if rank == 0 else mine[:4], count=5)
        # split weights go as far as all have batches, DDP's plain ones on
        kl = qs.reestimate_batchnorm(ready, mine if rank == 0 else mine[:3], count=5)
        state = qs.whole(model.state_dict())
        told[how] = {"state": state, "kl": dict(kl), "training": model.training}
    return told


def alone(batches: list[Tensor], norm_batches: list[Tensor]) -> dict[str, Any]:
    model = network("plain", act_bits=4)
    qs.calibrate(model, batches, len(batches))
    kl = qs.reestimate_batchnorm(model, norm_batches, len(norm_batches))
    return {"state": model.state_dict(), "kl": dict(kl), "training": True}


def test_ranges_and_batchnorm_statistics_are_of_all_processes(tmp_path: Path) -> None:
    ranks = together(measure, 2, tmp_path, 2)
    whole = [batch(step, torch.float64)[0] for step in range(5)]
    first, second = ([images[rank::2] for images in whole] for rank in range(2))
    in_step, as_far = first[:4] + second[:4], first + second[:4]
    expected = {
        "split": alone(in_step, first[:3] + second[:3]),
        "ddp": alone(as_far, first + second[:3]),
    }
    for told in ranks:
        for how, want in expected.items():
            got = told[how]
            for each in (got, want):
                for name in [n for n in each["state"] if n.endswith("num_batches_tracked")]:
                    del each["state"][name]
            assert_alike(got, want)
    assert_same_state(ranks[0], ranks[1])
    assert BATCH % 2 == 0
