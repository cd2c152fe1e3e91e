"""Whether a checkpoint holds what a training goes on from, looked at before any of it is used.

Its checksum shows that it is as it was written, not who has written it. What torch and Lightning
take from it as it is, is compared with what a training that begins here would save: the same names,
values of the same kinds, tensors of the same shapes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from quiesce.errors import CheckpointError, QuiesceError, TrackingError
from quiesce.files.untrusted.typed_values import count, mapping, maybe, number, text
from quiesce.integrations.lightning.quiesce_callback import QuiesceCallback, WatchCallback
from quiesce.training.recording.summary import Measured
from quiesce.training.resuming.checkpoint_callback import OWN
from quiesce.training.resuming.random_states import random_states

if TYPE_CHECKING:
    from quiesce.training.classifier import Classifier

LONGEST_VERSION = 100
"""Characters of the version of a package."""

_WATCHING = QuiesceCallback, WatchCallback
_TOLD = QuiesceError, OSError, torch.OutOfMemoryError
_WORDS = 624  # of numpy's generator: it reads at whatever place it is told


def refuse_odd(content: dict[str, Any]) -> None:
    """Refuse a checkpoint whose own entries are missing or of another kind than a run writes.

    Raises:
        ValueError: One is, or a tensor is larger than what is stored of it.
        KeyError: One is missing.
    """
    _refuse_spread(content)
    own, job = mapping(content[OWN]), mapping(mapping(content[OWN])["job"])
    if not isinstance(own["over"], bool):
        raise ValueError(f"{own['over']!r:.40} is neither true nor false")
    for each in (content["global_step"], content["epoch"], own["batches"], own["metrics_bytes"]):
        _size(each)
    count(own["threads"])
    for version in mapping(own["versions"]).values():
        if not text(version).isprintable() or len(version) > LONGEST_VERSION:
            raise ValueError(f"{version!r:.40} is no version")
    maybe(number, own["train_loss"])
    for seconds in mapping(job["seconds"]).values():
        number(seconds)
    if unknown := mapping(job["top1_percent"]).keys() - Measured().top1_percent:
        raise ValueError(f"its top1_percent is of {min(unknown, key=str)!r:.40}")
    for percent in job["top1_percent"].values():
        maybe(number, percent)
    for each in _processes(content["epoch_so_far"]):
        _refuse_unlike(each, {"losses": 0.0, "batches": 0, "busy_s": 0.0}, "epoch_so_far")
    for each in _processes(own["random"]):
        like = random_states()
        cuda = each["cuda"] if isinstance(each["cuda"], list) else []
        _refuse_unlike(each, {**like, "cuda": cuda}, "random")
        if each["numpy"][2] > _WORDS:
            raise ValueError("its random numbers of numpy are out of range")


def refuse_unfit(content: dict[str, Any], trainer: Trainer, optimizer: Optimizer) -> None:
    """Refuse a checkpoint that is of another training, or of none.

    Args:
        content: That `refuse_odd` takes.
        trainer: It has not trained yet.
        optimizer: Over the parameters of the training, made for this; changed.

    Raises:
        ValueError: What was saved differs from what this training would save.
        KeyError: An entry is missing.
    """
    loops = trainer.fit_loop.state_dict()
    loops["state_dict"] = {"combined_loader": [{"epoch": 0, "batches": 0}]}
    _refuse_unlike(mapping(content["loops"])["fit_loop"], loops, "fit_loop")
    watching = (each for each in _callbacks(trainer) if isinstance(each, _WATCHING))
    names = {each.state_key for each in watching}
    if lacking := sorted(names - mapping(content["callbacks"]).keys()):
        raise ValueError(f"it has nothing of {lacking[0]}")
    for state in map(mapping, mapping(content["callbacks"]).values()):
        if "tracker" in state:
            for each in (state["step"], state["tracker"]["steps"], state["tracker"]["base"]):
                _size(each)
        if "recorded" in state:
            _refuse_odd_recording(state)
    schedule = LambdaLR(optimizer, lambda _: 1.0).state_dict()
    _refuse_unlike(content["lr_schedulers"], [schedule], "lr_schedulers")
    like = _stepped(optimizer)
    if len(content["optimizer_states"]) != 1:
        raise ValueError("its optimizer_states are not of one optimizer")
    used = mapping(content["optimizer_states"][0]["state"])  # parameters without gradient have none
    like["state"] = {each: like["state"][each] for each in used}
    _refuse_unlike(content["optimizer_states"], [like], "optimizer_states")


@contextmanager
def gone_on_from(path: Path, module: "Classifier") -> Iterator[None]:
    """Make one line of what torch and Lightning raise while they take up a checkpoint.

    Args:
        path: Of the checkpoint.
        module: That is trained in the block; its first batch ends the taking up.

    Raises:
        CheckpointError: The block raised something else than an error of ours or of the system.
    """
    try:
        yield
    except Exception as error:  # what odd entries raise there is open
        told = isinstance(error, _TOLD) and not isinstance(error, TrackingError)
        if module.begun or told:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} does not fit this training: {reason:.200}") from error


def _refuse_spread(content: Any) -> None:
    """Refuse tensors that would become larger in a copy than they are in the file."""
    left, seen = [content], set()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list | tuple | set):
            left.extend(each)
        elif isinstance(each, Tensor) and (
            each.layout is not torch.strided
            or each.is_meta
            or each.numel() * each.element_size() > each.untyped_storage().nbytes()
        ):
            raise ValueError(f"a tensor of the shape {tuple(each.shape)!s:.60} is not whole")


def _refuse_unlike(saved: Any, like: Any, where: str) -> None:
    """Refuse a tree whose names, kinds of values, or shapes of tensors are not those of another."""
    if isinstance(like, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != like.shape:
            raise ValueError(f"its {where} is no tensor of the shape {tuple(like.shape)}")
        if saved.is_complex() or saved.is_floating_point() != like.is_floating_point():
            raise ValueError(f"its {where} has the type {saved.dtype}")
    elif isinstance(like, float):
        number(saved)
    elif like is None:
        maybe(number, saved)
    elif type(saved) is not type(like):
        raise ValueError(f"its {where} is {saved!r:.40}")
    elif isinstance(like, dict):
        if saved.keys() != like.keys():
            odd = min(saved.keys() ^ like.keys(), key=str)
            raise ValueError(f"its {where} is of another version or training: {odd!r:.40}")
        for name, inside in like.items():
            _refuse_unlike(saved[name], inside, f"{where}.{name}")
    elif isinstance(like, list | tuple):
        if len(saved) != len(like):
            raise ValueError(f"its {where} has {len(saved)} entries, not {len(like)}")
        for one, inside in zip(saved, like, strict=True):
            _refuse_unlike(one, inside, where)
    elif isinstance(like, int) and not isinstance(like, bool):
        _size(saved)


def _refuse_odd_recording(state: dict[str, Any]) -> None:
    step, counted = state["recorded"]
    for each in (step, *counted, *state["bytes"]):
        _size(each)
    if (trajectory := state["trajectory"]) is not None:
        text(trajectory["layer"])
        for done, _ in trajectory["rows"]:
            _size(done)


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] (made by a connector)


def _size(value: Any) -> int:
    if count(value) < 0:
        raise ValueError(f"{value} is below 0")
    return value


def _processes(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r:.40} is of no process")
    return [mapping(each) for each in value]


def _stepped(optimizer: Optimizer) -> dict[str, Any]:
    """State of an optimizer that has stepped, with tensors that have a shape and no content."""
    for group in optimizer.param_groups:
        group["params"] = [Parameter(torch.empty_like(p, device="meta")) for p in group["params"]]
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    return optimizer.state_dict()
