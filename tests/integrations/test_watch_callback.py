"""The watch in a Trainer: bad steps are stopped before the optimizer, or skipped and counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

import quiesce as qs
from integrations.test_quiesce_callback import Module, fit
from integrations.test_quiesce_callback import pytestmark as pytestmark
from quiesce.errors import DivergedError
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback, WatchCallback
from support.states import assert_same_state, through_a_file


class Breaks(Module):
    """Its loss is NaN in one step; it logs, and knows how often its training step ran."""

    def __init__(self, at: int, **options: Any) -> None:
        super().__init__(**options)
        self.at, self.ran = at, 0

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Any:
        self.ran += 1
        loss = super().training_step(batch, index)
        if self.trainer.global_step >= self.at:
            loss = loss * torch.nan
        self.log("loss", loss)
        return loss


def test_a_loss_that_is_not_finite_stops_before_the_optimizer() -> None:
    module = Breaks(at=3)
    with pytest.raises(DivergedError, match="the loss is nan at step 3: the output of every layer"):
        fit(module, [QuiesceCallback([qs.Dampening(0.1)])])
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert module.ran == 3 + 1 + 1  # once more, to find the layer
    assert "log" not in vars(module)


def test_a_bad_batch_among_accumulated_ones_stops_their_step() -> None:
    module = Breaks(at=1)
    with pytest.raises(DivergedError, match="the loss is nan at step 1"):
        fit(module, [QuiesceCallback()], accumulate_grad_batches=2)
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_a_float_module_can_be_watched() -> None:
    module = Breaks(at=2)
    module.model = qs.strip(module.model)
    watching = WatchCallback(prefix="model.")
    with pytest.raises(DivergedError, match="the loss is nan at step 2"):
        fit(module, [watching])


def test_a_checkpoint_of_broken_numbers_is_not_written(tmp_path: Path) -> None:
    module = Module()
    trainer = fit(module, [QuiesceCallback()])
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    module.model[3].bias.data[0] = torch.inf
    with pytest.raises(DivergedError, match=r"a weight of the layer 'model\.3' \(model\.3\.bias\)"):
        trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["good.ckpt"]


def test_steps_that_overflow_float16_are_skipped_and_counted() -> None:
    module, callback = Module(), QuiesceCallback([qs.Dampening(0.1)])
    before = module.model[0].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    half = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    fit(module, [callback], max_epochs=5, plugins=[half])
    assert callback.watch is not None
    assert callback.control is not None
    assert 0 < callback.watch.skipped < 30
    assert callback.control.step == 30 - callback.watch.skipped
    assert not torch.equal(module.model[0].weight, before)


def test_its_counts_go_on_from_a_checkpoint() -> None:
    callback = QuiesceCallback()
    fit(Module(), [callback])
    assert callback.watch is not None
    callback.watch.skipped = 7
    again = QuiesceCallback()
    again.load_state_dict(through_a_file(callback.state_dict()))
    assert_same_state(again.state_dict(), callback.state_dict())
    fit(Module(), [again])
    assert again.watch is not None
    assert again.watch.skipped == 7
