"""The callback in a real Trainer: one action a step, one penalty a step, all of it resumed."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import quiesce as qs
from quiesce.errors import DivergedError, TrackingError
from quiesce.integrations.huggingface import QuiesceTrainerCallback
from support.made_cures import one_of_each
from support.processes import together
from support.small_networks import weights_only
from support.states import assert_same_state

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def example(count: int = 2) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(7)
    return {"input_ids": torch.randint(0, 20, (count, 6), generator=noise)}


def bert(dropout: float = 0.0) -> BertForSequenceClassification:
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=4,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config)
    return qs.prepare(model, weights_only(), example())


def examples(count: int = 32) -> list[dict[str, Any]]:
    noise = torch.Generator().manual_seed(3)
    return [
        {"input_ids": torch.randint(0, 20, (6,), generator=noise), "labels": i % 4}
        for i in range(count)
    ]


def trainer_of(
    model: nn.Module,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
    kind: type[Trainer] = Trainer,
    compute_loss_func: Any = None,
    **options: Any,
) -> Trainer:
    options = {"save_strategy": "no", "max_steps": 6, "max_grad_norm": 0.0, **options}
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        learning_rate=0.02,
        logging_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return kind(
        model,
        arguments,
        train_dataset=examples(),
        eval_dataset=examples(8),
        callbacks=list(callbacks),
        compute_loss_func=compute_loss_func,
    )


def cures() -> list[qs.Cure]:
    return [qs.Dampening(0.1), qs.Freezing(0.15, max_frozen=None)]


def test_a_trainer_does_what_a_plain_loop_does(tmp_path: Path) -> None:
    model, callback = bert(), QuiesceTrainerCallback(one_of_each(), momentum=0.2)
    batches: list[dict[str, Tensor]] = []
    seen = model.register_forward_pre_hook(
        lambda _, __, kwargs: batches.append(kwargs), with_kwargs=True
    )
    options = {"lr_scheduler_type": "constant", "max_steps": 12}
    trainer_of(model, [callback], tmp_path, **options).train()
    seen.remove()

    expected = bert()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.02, weight_decay=0.0, fused=True)
    weights = qs.quantized_weights(expected)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, 0.2), one_of_each())
    expected.train()
    for batch in batches:
        optimizer.zero_grad()
        (expected(**batch).loss + control.penalty()).backward()
        optimizer.step()
    free = control.tracker.summary().frozen
    control.finish()
    assert len(batches) == callback.tracker.steps == 12
    assert 0 < free < control.tracker.summary().frozen < 1
    assert callback.control is not None
    assert_same_state(callback.control.state_dict(), control.state_dict())
    assert_same_state(dict(model.state_dict()), dict(expected.state_dict()))


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=["reentrant", "not reentrant", "compiled"],
)
def test_checkpointing_and_compiling_change_nothing(options: Any, tmp_path: Path) -> None:
    runs = []
    for more in ({}, options):
        model, callback = bert(), QuiesceTrainerCallback(cures(), momentum=0.2)
        trainer_of(model, [callback], tmp_path, max_steps=8, **more).train()
        assert callback.control is not None
        runs.append((callback.control, dict(model.named_parameters())))
    (one, plain), (two, changed) = runs
    assert [weight.name for weight in two.weights] == [weight.name for weight in one.weights]
    assert two.tracker.summary().frozen == one.tracker.summary().frozen > 0
    assert two.tracker.summary().total_oscillations == one.tracker.summary().total_oscillations
    for name, value in plain.items():
        torch.testing.assert_close(changed[name], value)


class Spy(TrainerCallback):
    """Keeps the gradients that the first optimizer step gets."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def on_pre_optimizer_step(self, *args: Any, model: nn.Module, **_: Any) -> None:
        if not self.gradients:
            self.gradients = [
                torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for p in model.parameters()
            ]


class OwnLoss(Trainer):
    """As users override the loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs["input_ids"])
        loss = 2 * cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def own_function(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


LOSSES = {
    "plain": {},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "compute_loss_func": {"compute_loss_func": own_function},
    "subclass": {"kind": OwnLoss},
    "bfloat16": {"bf16": True},
}


@pytest.mark.parametrize(
    ("loss", "accumulate"),
    [
        pytest.param("plain", 1, marks=pytest.mark.slow),
        *(
            pytest.param(each, 2, marks=() if each == "compute_loss_func" else pytest.mark.slow)
            for each in LOSSES
        ),
    ],
)
def test_the_penalty_enters_a_step_once(loss: str, accumulate: int, tmp_path: Path) -> None:
    gradients = []
    for made in ([], [qs.Dampening(0.3)]):
        model, spy, callback = bert(), Spy(), QuiesceTrainerCallback(made)
        start = copy.deepcopy(model)
        trainer = trainer_of(
            model,
            [callback, spy],
            tmp_path,
            gradient_accumulation_steps=accumulate,
            **{**LOSSES[loss], "max_steps": 2},
        )
        trainer.train()
        assert callback.tracker.steps == trainer.state.global_step == 2
        gradients.append(spy.gradients)
    dampening, weights = qs.Dampening(0.3), qs.quantized_weights(start)
    dampening.attach(weights, qs.OscillationTracker(weights))
    penalty = dampening.penalty(0)
    assert penalty is not None
    pull = torch.autograd.grad(penalty, list(start.parameters()), materialize_grads=True)
    for plain, with_it, part in zip(*gradients, pull, strict=True):
        torch.testing.assert_close(with_it, plain + part, rtol=1e-4, atol=1e-6)


def test_a_loss_scale_scales_the_penalty_too() -> None:
    model = bert()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    callback = QuiesceTrainerCallback([qs.Dampening(0.3)])
    arguments = TrainingArguments(use_cpu=True, report_to=[])
    Accelerator(cpu=True)
    callback.on_train_begin(
        arguments,
        TrainerState(),
        TrainerControl(),
        model=model,
        optimizer=AcceleratedOptimizer(inner, scaler=scaler),
    )
    callback.on_step_begin()
    weight = callback.tracker.weights[0]
    assert callback.control is not None
    (expected,) = torch.autograd.grad(callback.control.penalty(), [weight.latent])
    assert weight.latent.grad is not None
    torch.testing.assert_close(weight.latent.grad, 8 * expected)
    forget_accelerate()


def forget_accelerate() -> None:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


RESUMABLE = {
    "max_steps": 12,
    "save_strategy": "steps",
    "save_steps": 5,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 1.0,
}


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    """In the middle of an epoch, with dropout, shuffling, a schedule and gradient clipping."""

    def run(resume: str | None = None) -> tuple[nn.Module, QuiesceTrainerCallback]:
        model, callback = bert(dropout=0.1), QuiesceTrainerCallback(cures(), momentum=0.2)
        trainer = trainer_of(model, [callback], tmp_path, **RESUMABLE)
        trainer.train(resume_from_checkpoint=resume)
        return model, callback

    whole, expected = run()
    resumed, callback = run(str(tmp_path / "checkpoint-5"))
    assert expected.control is not None
    assert callback.control is not None
    assert callback.control.step == 12
    assert 0 < expected.tracker.summary().frozen < 1
    assert_same_state(callback.control.state_dict(), expected.control.state_dict())
    assert_same_state(dict(resumed.state_dict()), dict(whole.state_dict()))


@pytest.mark.slow
def test_a_checkpoint_in_another_place_has_to_be_named(tmp_path: Path) -> None:
    trainer_of(bert(), [QuiesceTrainerCallback(momentum=0.2)], tmp_path / "a", **RESUMABLE).train()
    saved = tmp_path / "a" / "checkpoint-5"

    def resume(callback: QuiesceTrainerCallback, folder: str) -> None:
        trainer = trainer_of(bert(), [callback], tmp_path / folder, **RESUMABLE)
        trainer.train(resume_from_checkpoint=str(saved))

    named = QuiesceTrainerCallback(momentum=0.2, resume_from=saved)
    resume(named, "b")
    assert named.tracker.steps == 12
    unnamed = QuiesceTrainerCallback(momentum=0.2)
    with (
        pytest.warns(UserWarning, match="resume_from"),
        pytest.warns(UserWarning, match="taken 5 steps before"),
    ):
        resume(unnamed, "c")
    assert unnamed.tracker.steps == 7
    other = trainer_of(
        bert(), [QuiesceTrainerCallback(momentum=0.2)], tmp_path / "d", **{**RESUMABLE, "seed": 1}
    )
    other.train()
    with pytest.raises(TrackingError, match="other weights"):
        resume(QuiesceTrainerCallback(momentum=0.2), "d")


class Reporter(TrainerCallback):
    """As TensorBoard and the like: gets the log, and sends it away at once."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def on_log(self, *args: Any, logs: dict[str, Any], **_: Any) -> None:
        self.sent.append(dict(logs))


@pytest.mark.parametrize("first", [False, True])
def test_the_shares_are_in_the_log(first: bool, tmp_path: Path) -> None:
    reporter, callback = Reporter(), QuiesceTrainerCallback(cures(), momentum=0.2)
    trainer = trainer_of(bert(), [reporter, callback], tmp_path)
    if first:
        callback.attach(trainer)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    names = {f"quiesce/{n}" for n in ("oscillating", "frozen", "flips_per_step", "penalty")}
    assert all(names <= row.keys() for row in rows)
    assert rows[-1]["quiesce/frozen"] == callback.tracker.summary().frozen
    assert rows[-1]["quiesce/penalty"] > 0
    assert [names <= row.keys() for row in reporter.sent if "loss" in row] == [first] * 3
    assert trainer.callback_handler.callbacks.count(callback) == 1


def test_numbers_that_are_not_finite_stop_the_trainer_and_name_the_layer(tmp_path: Path) -> None:
    model, callback = bert(), QuiesceTrainerCallback()
    trainer = trainer_of(model, [callback], tmp_path)
    layer = model.bert.encoder.layer[0].output.dense
    layer.register_forward_hook(
        lambda *_: (
            torch.full((4, 6, 16), torch.nan, requires_grad=True)
            if trainer.state.global_step == 3
            else None
        )
    )
    with pytest.raises(DivergedError, match=r"step 3.*layer\.0\.output\.dense"):
        trainer.train()


class Accident(TrainerCallback):
    def on_step_end(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step == 2:
            raise KeyError("an accident")


def test_a_trainer_trains_again_after_the_end_and_after_an_exception(tmp_path: Path) -> None:
    model, callback, accident = bert(), QuiesceTrainerCallback(cures()), Accident()
    trainer = trainer_of(model, [callback, accident], tmp_path)
    hooks = len(model._forward_pre_hooks)
    with pytest.raises(KeyError, match="an accident"):
        trainer.train()
    assert callback.tracker.steps == 2
    trainer.remove_callback(accident)
    with pytest.warns(UserWarning, match="taken 2 steps before"):  # it keeps its optimizer
        trainer.train()
    assert callback.tracker.steps == 6
    assert len(model._forward_pre_hooks) == hooks


def test_evaluation_in_between_changes_nothing(tmp_path: Path) -> None:
    states = []
    for options in ({}, {"eval_strategy": "steps", "eval_steps": 2}):
        model, callback = bert(), QuiesceTrainerCallback(cures(), momentum=0.2)
        trainer_of(model, [callback], tmp_path, **options).train()
        assert callback.control is not None
        states.append((callback.control.state_dict(), dict(model.state_dict())))
    assert_same_state(*states)


def train_in_one_of_two(rank: int, folder: Path) -> tuple[Any, Any, float]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["ACCELERATE_USE_CPU"] = "true"
    made = cures()
    model, callback = bert(), QuiesceTrainerCallback(made, momentum=0.2, verify_every=1)
    trainer = trainer_of(model, [callback], folder, ddp_backend="gloo", save_strategy="epoch")
    trainer.train()
    assert trainer.args.world_size == 2
    assert callback.control is not None
    return callback.control.state_dict(), dict(model.state_dict()), callback.tracker.steps


@pytest.mark.slow
def test_processes_of_ddp_stay_together(tmp_path: Path) -> None:
    """The gradient of the penalty enters the averaged gradients of DDP: ranks are compared."""
    one, two = together(train_in_one_of_two, 2, tmp_path / "ranks", tmp_path / "run")
    assert one[2] == 6
    assert_same_state(one, two)
    assert list((tmp_path / "run").glob("checkpoint-*/quiesce.pt"))


@pytest.mark.parametrize("engine", [DistributedType.DEEPSPEED, DistributedType.FSDP])
def test_engines_that_keep_weights_elsewhere_are_refused(
    engine: DistributedType, tmp_path: Path
) -> None:
    """What such a Trainer hands to its callbacks; the engines themselves need accelerators."""
    trainer = trainer_of(bert(), [], tmp_path)
    trainer.create_optimizer()
    optimizer = trainer.accelerator.prepare_optimizer(trainer.optimizer)
    AcceleratorState._shared_state["distributed_type"] = engine
    with pytest.raises(TrackingError, match=r"does not support (DeepSpeed|FSDP)"):
        QuiesceTrainerCallback().on_train_begin(
            trainer.args, TrainerState(), TrainerControl(), model=trainer.model, optimizer=optimizer
        )
    forget_accelerate()


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(qs.strip(bert()), [QuiesceTrainerCallback()], tmp_path)
    with pytest.raises(qs.QuiesceError, match=r"call quiesce\.prepare first"):
        trainer.train()


def test_there_is_no_tracker_before_training() -> None:
    with pytest.raises(TrackingError, match="before training starts"):
        _ = QuiesceTrainerCallback().tracker
    with pytest.raises(ValueError, match="verify_every"):
        QuiesceTrainerCallback(verify_every=0)
