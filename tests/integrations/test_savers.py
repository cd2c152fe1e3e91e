"""Savers of other libraries: each restores codes, frozen weights and tracker bit for bit."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import lightning
import pytest
import safetensors.torch
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

import quiesce as qs
from support.loops import IMAGES, Loop
from support.processes import together
from support.small_networks import prepared_network
from support.states import assert_parameters_own_their_memory, assert_same_state

BEFORE, AFTER = 12, 6  # steps before and after the checkpoint


def loop(model: nn.Module | None = None) -> Loop:
    cures = [qs.Dampening(0.05), qs.Freezing(0.3, max_frozen=None)]
    made = Loop(cures, model=model, momentum=0.9)
    assert_parameters_own_their_memory(made.model)
    return made


def trained() -> Loop:
    made = loop()
    made.train(BEFORE)
    assert 0 < made.tracker.summary().frozen < 1
    assert made.tracker.summary().total_oscillations > 0
    assert_parameters_own_their_memory(made.model)
    return made


def assert_same_run(one: Loop, two: Loop) -> None:
    """Now and after more steps: codes, frozen weights, tracker, and all that is saved."""
    for _ in range(2):
        assert_parameters_own_their_memory(two.model)
        for mine, theirs in zip(one.weights, two.weights, strict=True):
            assert torch.equal(mine.codes(), theirs.codes())
            assert torch.equal(mine.frozen, theirs.frozen)
            assert torch.equal(mine.history, theirs.history)
        assert_same_state(one.tracker.state_dict(), two.tracker.state_dict())
        assert_same_state(one.state(), two.state())
        one.train(AFTER)
        two.train(AFTER)


def through_torch(old: Loop, new: Loop, folder: Path) -> None:
    torch.save([dict(old.model.state_dict()), *old.state()[1:]], folder / "state.pt")
    model, optimizer, control = torch.load(folder / "state.pt", weights_only=True)
    new.model.load_state_dict(model)
    new.optimizer.load_state_dict(optimizer)
    new.control.load_state_dict(control)


def through_safetensors(old: Loop, new: Loop, folder: Path) -> None:
    safetensors.torch.save_model(old.model, str(folder / "model.safetensors"))
    missing = safetensors.torch.load_model(new.model, folder / "model.safetensors")
    assert not any(missing)
    new.optimizer.load_state_dict(old.state()[1])
    new.control.load_state_dict(old.state()[2])


def through_accelerate(old: Loop, new: Loop, folder: Path) -> None:
    for one in old, new:
        for state in AcceleratorState, GradientState, PartialState:
            state._reset_state()
        accelerator = accelerate.Accelerator(cpu=True)
        accelerator.prepare(one.model, one.optimizer)
        accelerator.register_for_checkpointing(one.control)
        if one is old:
            accelerator.save_state(str(folder / "accelerate"))
        else:
            accelerator.load_state(str(folder / "accelerate"))


def through_fabric(old: Loop, new: Loop, folder: Path) -> None:
    for one in old, new:
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
        model, optimizer = fabric.setup(one.model, one.optimizer)
        state = {"model": model, "optimizer": optimizer, "control": one.control}
        if one is old:
            fabric.save(folder / "fabric.ckpt", state)
        else:
            fabric.load(folder / "fabric.ckpt", state)


def through_distributed_checkpoint(old: Loop, new: Loop, folder: Path) -> None:
    model, optimizer = get_state_dict(old.model, old.optimizer)
    state = {"model": model, "optimizer": optimizer, "control": old.control.state_dict()}
    checkpoint.save(state, checkpoint_id=folder / "dcp", no_dist=True)
    model, optimizer = get_state_dict(new.model, new.optimizer)
    state = {"model": model, "optimizer": optimizer, "control": new.control.state_dict()}
    checkpoint.load(state, checkpoint_id=folder / "dcp", no_dist=True)
    set_state_dict(
        new.model,
        new.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    new.control.load_state_dict(state["control"])


SAVERS = [
    through_torch,
    through_safetensors,
    through_fabric,
    pytest.param(
        through_accelerate,
        # Accelerate pickles the states of random generators with numpy in this way
        marks=pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    ),
    pytest.param(
        through_distributed_checkpoint,
        marks=pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    ),
]


@pytest.mark.parametrize("saver", SAVERS)
def test_a_run_goes_on_from_what_a_saver_wrote(
    saver: Callable[[Loop, Loop, Path], None], tmp_path: Path
) -> None:
    old, new = trained(), loop()
    before = old.state()
    saver(old, new, tmp_path)
    assert_same_state(old.state(), before)
    assert_same_run(old, new)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_run_goes_on_from_a_copy_of_a_tracked_model(copied: Callable[[Any], Any]) -> None:
    old = trained()
    new = loop(copied(old.model))
    new.optimizer.load_state_dict(old.state()[1])
    new.control.load_state_dict(old.state()[2])
    assert {p.data_ptr() for p in new.model.parameters()}.isdisjoint(
        p.data_ptr() for p in old.model.parameters()
    )
    assert_same_run(old, new)


def test_a_run_goes_on_from_a_copy_of_the_model_with_its_control() -> None:
    old = trained()
    new = copy.deepcopy(old)
    assert new.control.weights[0].latent is new.model[0].weight
    assert_same_run(old, new)


def sent_to_others(rank: int) -> list[list[Tensor]]:
    """The records of a DDP model that loads what the first process has, and of that one."""
    old = trained()
    state = {}
    if rank == 0:
        state = get_model_state_dict(
            DistributedDataParallel(copy.deepcopy(old.model), init_sync=False)
        )
    new = loop()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(
        DistributedDataParallel(new.model, init_sync=False), state, options=options
    )
    return [[weight.history for weight in run.weights] for run in (old, new)]


@pytest.mark.slow
def test_records_reach_other_processes_in_a_state_that_torch_broadcasts(tmp_path: Path) -> None:
    for old, new in together(sent_to_others, 2, tmp_path):
        assert any(records.any() for records in old)
        assert_same_state(new, old)


def test_a_file_of_one_weight_has_the_size_of_one_weight(tmp_path: Path) -> None:
    model = prepared_network()
    model.append(nn.Linear(5, 4096))
    model = qs.prepare(qs.strip(model), qs.Scheme(act_bits=None), IMAGES)
    weights = qs.quantized_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Freezing(0.1)])
    model(IMAGES).sum().backward()
    optimizer.step()
    torch.save(weights[0].latent, tmp_path / "weight.pt")
    assert (tmp_path / "weight.pt").stat().st_size < 4096
    assert_parameters_own_their_memory(model)


class TrainerModel(nn.Module):
    """What a Hugging Face Trainer takes: a model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.body = prepared_network()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = self.body(images)
        return {"loss": (output - labels).square().mean(), "logits": output}


class SaveControl(transformers.TrainerCallback):
    """Keeps a Control beside the Trainer's checkpoints, as a user would by hand."""

    def __init__(self, control: qs.Control) -> None:
        self.control = control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self.control.state_dict(), folder / "quiesce.pt")


def hugging_face(
    folder: Path, stop_at: int, resume: str | None = None
) -> tuple[nn.Module, qs.Control]:
    model = TrainerModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, 0.2)
    control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.3, max_frozen=None)])
    noise = torch.Generator().manual_seed(3)
    data = [
        {
            "images": torch.rand(3, 6, 6, generator=noise),
            "labels": 3 * torch.randn(5, generator=noise),
        }
        for _ in range(BEFORE * 8)
    ]
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=stop_at,
        per_device_train_batch_size=8,
        save_strategy="steps",
        save_steps=BEFORE,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        lr_scheduler_type="constant",
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=data,
        optimizers=(optimizer, None),
        callbacks=[SaveControl(control)],
    )
    if resume is not None:
        control.load_state_dict(torch.load(Path(resume) / "quiesce.pt", weights_only=True))
    trainer.train(resume_from_checkpoint=resume)
    assert_parameters_own_their_memory(model)
    return model, control


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hugging_face_trainer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, whole_control = hugging_face(tmp_path / "whole", BEFORE + AFTER)
    hugging_face(tmp_path / "cut", BEFORE)
    saved = str(tmp_path / "cut" / f"checkpoint-{BEFORE}")
    resumed, control = hugging_face(tmp_path / "cut", BEFORE + AFTER, resume=saved)
    assert 0 < control.tracker.summary().frozen < 1
    assert control.step == BEFORE + AFTER
    assert_same_state(control.state_dict(), whole_control.state_dict())
    assert_same_state(dict(resumed.state_dict()), dict(whole.state_dict()))
