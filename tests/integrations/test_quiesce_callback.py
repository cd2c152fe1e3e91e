"""The callback in a Trainer: one action a step, one penalty in the loss, all of it resumed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs
import quiesce.lightning
from quiesce.errors import TrackingError
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback
from quiesce.training.optimizers import JoinedOptimizer
from support.made_cures import one_of_each
from support.small_networks import prepared_network
from support.states import assert_parameters_own_their_memory, assert_same_state


class Module(LightningModule):
    """A user's module; it knows nothing of quiesce but a prepared model."""

    def __init__(self, output: str = "tensor", joined: bool = False) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.model = prepared_network()
        self.output, self.joined = output, joined
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Any:
        images, targets = batch
        loss = (self.model(images) - targets).square().mean()
        self.seen.append(self.model[0].weight.detach().clone())
        if self.output == "nothing" and index == 1:
            return None
        return {"loss": loss, "more": 1} if self.output == "dict" else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if not self.joined:
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.5)
            return self.optimizer
        scales = qs.quantizer_parameters(self)
        others = [p for p in self.parameters() if all(p is not scale for scale in scales)]
        members = [torch.optim.SGD(others, lr=0.02), torch.optim.Adam(scales, lr=1e-4)]
        return JoinedOptimizer(members)


class Accident(Callback):
    """Raises in the middle of training."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            raise KeyError("an accident")


def batches(size: int = 8, count: int = 6) -> DataLoader:
    noise = torch.Generator().manual_seed(3)
    images = torch.rand(size * count, 3, 6, 6, generator=noise)
    targets = 3 * torch.randn(size * count, 5, generator=noise)
    return DataLoader(TensorDataset(images, targets), batch_size=size)


def fit(
    module: LightningModule, callbacks: Sequence[Any], resume: Path | None = None, **options: Any
) -> Trainer:
    options = {"max_epochs": 1, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, batches(), ckpt_path=resume)
    return trainer


pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),  # Lightning's use of torch
]


def by_hand(cures: Sequence[qs.Cure], epochs: int = 1) -> tuple[nn.Module, qs.Control]:
    """The same run in a plain loop."""
    module = Module()
    optimizer = module.configure_optimizers()
    weights = qs.quantized_weights(module)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, 0.2), cures)
    for _ in range(epochs):
        for index, batch in enumerate(batches()):
            optimizer.zero_grad()
            (module.training_step(batch, index) + control.penalty()).backward()
            optimizer.step()
    return module, control


def cures() -> list[qs.Cure]:
    return [qs.Dampening(0.1), qs.Freezing(0.15, max_frozen=None)]


@pytest.mark.parametrize("output", ["tensor", "dict"])
def test_a_trainer_does_what_a_plain_loop_does(output: str) -> None:
    module, callback = Module(output), QuiesceCallback(one_of_each(), momentum=0.2)
    fit(module, [callback], max_epochs=2)
    expected, control = by_hand(one_of_each(), epochs=2)
    free = control.tracker.summary().frozen
    control.finish()
    assert callback.control is not None
    assert control.tracker.summary().frozen > free > 0
    assert callback.control.report() == control.report()
    assert_same_state(callback.control.state_dict(), control.state_dict())
    assert_same_state(dict(module.state_dict()), dict(expected.state_dict()))
    assert callback.tracker.summary().name == "all"


def test_accumulation_acts_once_an_optimizer_step() -> None:
    module, callback = Module(), QuiesceCallback(cures(), momentum=0.2)
    trainer = fit(module, [callback], accumulate_grad_batches=2)
    assert callback.control is not None
    assert len(module.seen) == 6
    assert trainer.global_step == callback.control.step == callback.tracker.steps == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_penalty_enters_a_step_once(accumulate: int) -> None:
    strength, gradients = 0.3, []

    class Spy(Module):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            gradients.append([p.grad.clone() for p in self.parameters()])

    for made in ([], [qs.Dampening(strength)]):
        module = Spy()
        start = copy.deepcopy(module.model)
        fit(module, [QuiesceCallback(made)], accumulate_grad_batches=accumulate, max_steps=1)
    dampening = qs.Dampening(strength)
    weights = qs.quantized_weights(start)
    dampening.attach(weights, qs.OscillationTracker(weights))
    penalty = dampening.penalty(0)
    assert penalty is not None
    pull = torch.autograd.grad(penalty, list(start.parameters()), materialize_grads=True)
    for plain, with_it, part in zip(*gradients, pull, strict=True):
        torch.testing.assert_close(with_it, plain + part)


def test_a_batch_without_a_loss_gets_no_penalty_either() -> None:
    module, callback = Module("nothing"), QuiesceCallback(cures())
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        trainer = fit(module, [callback])
    assert callback.control is not None
    assert callback.control.step == trainer.global_step
    assert torch.equal(module.seen[2], module.seen[1])
    assert not torch.equal(module.seen[1], module.seen[0])


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> tuple[Module, QuiesceCallback]:
        module, callback = Module(), QuiesceCallback(cures(), momentum=0.2)
        trainer = fit(module, [callback], resume, max_epochs=epochs)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module, callback

    whole, expected = run(4)
    run(2)
    resumed, callback = run(4, resume=tmp_path / "2.ckpt")
    assert callback.control is not None
    assert expected.control is not None
    assert callback.control.step == 24
    assert_parameters_own_their_memory(resumed)
    assert expected.tracker.summary().frozen > 0
    assert_same_state(callback.control.state_dict(), expected.control.state_dict())
    assert_same_state(dict(resumed.state_dict()), dict(whole.state_dict()))


def test_the_module_is_as_before_after_training_and_after_an_exception() -> None:
    module, callback = Module(), QuiesceCallback(cures())
    fit(module, [callback])
    assert "training_step" not in vars(module)
    with pytest.raises(KeyError, match="an accident"):
        fit(module, [callback, Accident()])
    assert "training_step" not in vars(module)
    assert callback.control is not None
    assert callback.control.step == 2
    module.optimizer.step()
    assert callback.control.step == 2  # it has let go of the optimizer as well


def test_a_training_step_of_the_object_itself_is_put_back() -> None:
    module = Module()
    own = module.training_step
    module.training_step = own
    fit(module, [QuiesceCallback(cures())])
    assert vars(module)["training_step"] is own


def test_a_module_can_be_trained_again() -> None:
    module, callback = Module(), QuiesceCallback(cures())
    fit(module, [callback])
    first = callback.tracker
    fit(module, [callback])
    assert callback.tracker is not first
    assert callback.tracker.steps == first.steps == 6


def test_joined_optimizers_are_one_step() -> None:
    module, callback = Module(joined=True), QuiesceCallback(cures(), momentum=0.2)
    trainer = fit(module, [callback], max_epochs=2)
    assert callback.control is not None
    assert trainer.global_step == callback.control.step == 12
    assert callback.tracker.summary().total_oscillations > 0


class ByHand(Module):
    """Steps its optimizer by itself, every `accumulate` batches."""

    def __init__(self, *, adds: bool = True, accumulate: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.adds, self.accumulate = adds, accumulate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        loss = super().training_step(batch, index)
        if self.adds:
            loss = loss + quiesce.lightning.penalty(self)
        self.manual_backward(loss / self.accumulate)
        if (index + 1) % self.accumulate == 0:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


def test_a_module_that_steps_by_hand_adds_the_penalty_by_hand() -> None:
    module, callback = ByHand(), QuiesceCallback(cures(), momentum=0.2)
    fit(module, [callback], max_epochs=2)
    expected, control = by_hand(cures(), epochs=2)
    assert callback.control is not None
    assert control.tracker.summary().frozen > 0
    assert_same_state(callback.control.state_dict(), control.state_dict())
    assert_same_state(dict(module.state_dict()), dict(expected.state_dict()))


def test_accumulation_by_hand_acts_once_an_optimizer_step() -> None:
    module, callback = ByHand(accumulate=2), QuiesceCallback(cures(), momentum=0.2)
    fit(module, [callback])
    assert callback.tracker.steps == 3


def test_a_step_by_hand_without_the_penalty_is_refused_before_it_is_taken() -> None:
    module, callback = ByHand(adds=False), QuiesceCallback(cures())
    before = module.model[0].weight.detach().clone()
    with pytest.raises(TrackingError, match=r"quiesce\.lightning\.penalty\(self\)"):
        fit(module, [callback])
    assert torch.equal(module.model[0].weight, before)


def test_cures_without_a_penalty_ask_nothing_of_a_module_that_steps_by_hand() -> None:
    module, callback = ByHand(adds=False), QuiesceCallback(cures()[1:])
    fit(module, [callback])
    assert callback.tracker.steps == 6


def test_there_is_no_penalty_without_the_callback() -> None:
    with pytest.raises(TrackingError, match="QuiesceCallback"):
        fit(ByHand(), [])


def test_there_is_no_tracker_before_training() -> None:
    with pytest.raises(TrackingError, match="no tracker before training starts"):
        _ = QuiesceCallback().tracker


def test_a_float_module_is_refused() -> None:
    module = Module()
    module.model = qs.strip(module.model)
    with pytest.raises(qs.QuiesceError, match=r"call quiesce\.prepare first"):
        fit(module, [QuiesceCallback()])


def test_a_checkpoint_without_the_callback_starts_tracking_anew(tmp_path: Path) -> None:
    fit(Module(), []).save_checkpoint(tmp_path / "old.ckpt")
    callback = QuiesceCallback(cures())
    with pytest.warns(UserWarning, match="Control starts at step 0"):
        fit(Module(), [callback], tmp_path / "old.ckpt", max_epochs=2)
    assert callback.control is not None
    assert callback.control.step == 6


@pytest.mark.parametrize("cured", [False, True])
def test_averages_are_followed_where_asked(cured: bool) -> None:
    callback = QuiesceCallback(cures() if cured else [], momentum=0.2, average_up_to=3)
    fit(Module(), [callback])
    for weight in callback.tracker.weights:
        assert bool((callback.tracker.average(weight.name) != weight.codes()).any())
    again = QuiesceCallback(cures() if cured else [], momentum=0.2, average_up_to=3)
    again.load_state_dict(callback.state_dict())
    fit(Module(), [again])
    assert again.tracker.steps == 2 * callback.tracker.steps


def test_without_asking_averages_are_not_followed() -> None:
    callback = QuiesceCallback(momentum=0.2)
    fit(Module(), [callback])
    with pytest.raises(TrackingError, match="nothing follows the average"):
        callback.tracker.average(callback.tracker.weights[0].name)
