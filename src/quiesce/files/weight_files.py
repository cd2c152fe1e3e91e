"""Reads files of weights without running code, and loads them only if every tensor fits."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.errors import CheckpointError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home

_NESTED = ("state_dict", "model")  # keys of the weights in checkpoints of trainers
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers
_COUNTER = "num_batches_tracked"  # of batch norm; missing in old files and not used


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name, onto the CPU.

    Pickled code is never run: the file is read by safetensors if its name ends in .safetensors,
    and otherwise by torch.load with weights_only.

    Args:
        path: A file with a state dict, or a checkpoint that has one under "state_dict" or "model";
            `~` is the home folder.

    Raises:
        CheckpointError: The file is missing or damaged, holds pickled code, or no named tensors.
        MissingExtraError: safetensors is needed and not installed.
    """
    file = in_home(path)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file; correct model.weights")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return named_tensors(unpickled(file), file)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Copy `weights` into `model`; after an error, the model is unchanged.

    Args:
        model: Changed in place.
        weights: Tensors by their names in the state dict. Prefixes that wrappers add to every
            name ("module.", "_orig_mod.", "model.") are removed.
        source: Name of the file in error messages.

    Raises:
        CheckpointError: A tensor is missing, unknown, not finite, or has another shape.
    """
    own = model.state_dict()
    given = _without_prefix(weights, own)
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    unknown = [name for name in given if name not in own]
    reshaped = [
        f"{name}, {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if missing or unknown or reshaped:
        kinds = {"first": reshaped, "first missing:": missing, "first unknown:": unknown}
        first = next(f"{what} {names[0]}" for what, names in kinds.items() if names)
        raise CheckpointError(
            f"{source} does not fit the network {type(model).__name__}: of its {len(given)} "
            f"tensors, {len(unknown)} are unknown and {len(reshaped)} have another shape; "
            f"{len(missing)} of the network's {len(own)} tensors are missing; {first}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source} is damaged: {name} is not finite")
    model.load_state_dict({**own, **given})


def _without_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = dict(weights)
    while given and not any(name in own for name in given):
        shared = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in given)]
        if not shared:
            break
        given = {name.removeprefix(shared[0]): tensor for name, tensor in given.items()}
    return given


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    safetensors = require("safetensors", f"reading {file}", "train")
    load_file = require("safetensors.torch", f"reading {file}", "train").load_file
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(_damaged(file, error)) from error


def unpickled(file: Path) -> Any:
    """Return what torch.save wrote to `file`, tensors on the CPU, without running code.

    Raises:
        CheckpointError: The file is damaged or holds pickled code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickles that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise many kinds
        if isinstance(error, pickle.UnpicklingError) and "unsupported" in str(error).lower():
            raise CheckpointError(
                f"{file} holds pickled code, which quiesce never runs; save only the weights: "
                "torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(_damaged(file, error)) from error


def named_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a file, by name, or raise a CheckpointError."""
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds a {type(content).__name__} and no weights")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file} holds no weights by name: {name!r} is a {type(value).__name__}"
            )
    return dict(content)


def _damaged(file: Path, error: Exception) -> str:
    reason = first_line(error).partition(". ")[0]
    return f"{file} is damaged or cut off ({reason}); fetch it again"
