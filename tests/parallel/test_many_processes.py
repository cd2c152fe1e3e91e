"""Processes that train one network: the same everywhere, and the same as one process alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import quiesce as qs
from quiesce.errors import RanksPartError
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from support.messages import telling, tells
from support.processes import together
from support.small_networks import small_network, weights_only
from support.states import assert_same_state

STEPS = 50
BATCH = 16  # of all processes together


def network(dtype: torch.dtype) -> nn.Module:
    """Without batch norm: statistics of half a batch are others by definition."""
    torch.manual_seed(5)
    model = small_network()
    model[1] = nn.Identity()
    qs.prepare(model, weights_only(), torch.zeros(1, 3, 6, 6))
    return model.to(dtype)


def batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, 3, 6, 6, generator=noise)
    return images.to(dtype), 3 * torch.randn(BATCH, 5, generator=noise).to(dtype)


class Training:
    """A plain loop with cures; each process takes its share of every batch."""

    def __init__(self, dtype: torch.dtype = torch.float64, rank: int = 0, world: int = 1) -> None:
        self.inner = self.model = network(dtype)
        self.dtype, self.share = dtype, slice(rank, None, world)
        if world > 1:
            self.model = DistributedDataParallel(self.inner)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.5)
        weights = qs.quantized_weights(self.inner)
        tracker = qs.OscillationTracker(weights, 0.2)
        freezing, reset = qs.Freezing(0.15, max_frozen=None), qs.OsciReset(2.0, period=7, window=5)
        cures = [qs.Dampening(0.01), freezing, qs.TRS(0.05), reset]
        self.control = qs.Control(self.optimizer, weights, tracker, cures)

    def step(self) -> None:
        images, targets = batch(self.control.step, self.dtype)
        self.optimizer.zero_grad()
        loss = (self.model(images[self.share]) - targets[self.share]).square().mean()
        (loss + self.control.penalty()).backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"model": dict(self.inner.state_dict()), "control": self.control.state_dict()}

    def frozen(self) -> Tensor:
        return torch.cat([weight.frozen.flatten() for weight in self.control.weights])


def train_in_step(rank: int, world: int) -> list[dict[str, Any]]:
    """Trains in either precision, verifying every step; then everything that can part does."""
    runs = []
    for dtype in (torch.float64, torch.float32):
        run = Training(dtype, rank, world)
        for _ in range(STEPS):
            run.step()
            qs.verify_ranks(run.control)
        runs.append({**run.state(), "mask": run.frozen()})
    for kind in ("latent", "scale", "code", "frequency", "average", "step"):
        assert_parts(kind, Training(rank=rank, world=world), rank)
    return runs


def assert_parts(kind: str, run: Training, rank: int) -> None:
    """One bit of one weight in the last rank is enough, and every rank hears of it."""
    run.step()
    run.step()
    qs.verify_ranks(run.control)
    weight, last = run.control.weights[1], distributed.get_world_size() - 1
    if rank == last:
        if kind == "step":
            run.control.step += 1
        elif kind == "scale":
            weight.raw_scale.mul_(1 + 2**-51)
        else:
            tracker = run.control.tracker
            tracked, i = tracker._place(weight.name)
            entries = {
                "latent": weight.held,
                "code": weight.history,
                "frequency": tracked.group.layer(tracked.frequency, i),
                "average": tracked.group.layer(tracked.average, i),
            }
            entries[kind].view(-1)[-1] += 1
    with pytest.raises(RanksPartError) as told:
        qs.verify_ranks(run.control)
    expected = {
        "latent": f"3: latent weights of rank {last} and of rank 0 are not the same after step 2;",
        "scale": f"3: the scale of rank {last} ",
        "code": f"3: codes or frozen weights of rank {last} ",
        "frequency": f"3: oscillation frequencies of rank {last} ",
        "average": f"3: averages of codes of rank {last} ",
        "step": "processes are at different steps (2, ",
    }
    assert str(told.value).startswith(expected[kind])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_stay_the_same_and_freeze_what_one_process_freezes(
    world: int, tmp_path: Path
) -> None:
    ranks = together(train_in_step, world, tmp_path, world)
    for other in ranks[1:]:
        assert_same_state(other, ranks[0])
    for dtype, run in zip((torch.float64, torch.float32), ranks[0], strict=True):
        alone = Training(dtype)
        for _ in range(STEPS):
            alone.step()
        frozen = alone.frozen()
        assert 0.05 < float(frozen.double().mean()) < 0.95
        # Averaging over ranks orders sums otherwise: a gradient differs by some 2^-53 (2^-24) of
        # itself. A code differs where a latent lies so near to a threshold that this decides;
        # weights that oscillate stay within some 1 % of a step of theirs, so that one weight in
        # one step does with a chance of about 50 * 2^-53 / 0.01 = 6e-13 (3e-4), and 464 weights in
        # 50 steps 1e-8 times (7 times). In float64 the sets are equal. In float32 about 7 of 464
        # may differ at once, and few more by what these change: 5 % in all. Sets that have nothing
        # to do with one another differ in half of all weights where half are frozen.
        differ = float((run["mask"] != frozen).double().mean())
        assert differ <= (0 if dtype == torch.float64 else 0.05)


class Module(LightningModule):
    """The same network and data in a Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network(torch.float32)

    def training_step(self, step: Tensor, _: int) -> Tensor:
        images, targets = batch(int(step), torch.float32)
        share = slice(self.global_rank, None, self.trainer.world_size)
        return (self.model(images[share]) - targets[share]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


class Fault(Callback):
    """Moves a weight in rank 1 alone after the fifth step, or the count of steps."""

    def __init__(self, kind: str, tracking: QuiesceCallback) -> None:
        self.kind, self.tracking = kind, tracking

    def on_train_batch_start(self, trainer: Trainer, module: Module, *_: Any) -> None:
        if trainer.global_rank != 1 or trainer.global_step != 5:
            return
        if self.kind == "step":
            self.tracking.control.step += 1
        else:
            module.model[6].weight.data[0, 0] += 1


def fit_with_faults(_: int) -> list[tuple[str, int]]:
    return [fit_with_a_fault(kind) for kind in ("weight", "step")]


def fit_with_a_fault(kind: str) -> tuple[str, int]:
    callback = QuiesceCallback([qs.Freezing(0.15, max_frozen=None)], 0.2, verify_every=4)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        callbacks=[Fault(kind, callback), callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with pytest.raises(RanksPartError) as told:
        trainer.fit(Module(), DataLoader(torch.arange(12), batch_size=None))
    return str(told.value), trainer.global_step


@pytest.mark.slow
def test_the_callback_stops_all_ranks_where_they_part(tmp_path: Path) -> None:
    first, second = together(fit_with_faults, 2, tmp_path)
    assert first == second
    (line, step), (line_of_steps, step_of_steps) = first
    assert step == step_of_steps == 8  # the next one that is a multiple of 4
    assert "(8, 9)" in line_of_steps
    # frozen latents are put back after each step; then it is the frequencies that tell
    assert line.startswith("model.6: ")
    assert tells(line, "rank 1", "rank 0", "step 8")
    with pytest.raises(ValueError, match=telling("verify_every", "got 0")):
        QuiesceCallback(verify_every=0)


def test_one_process_has_nobody_to_compare_with() -> None:
    run = Training()
    run.step()
    before = copy.deepcopy(run.state())
    qs.verify_ranks(run.control)
    assert_same_state(run.state(), before)
