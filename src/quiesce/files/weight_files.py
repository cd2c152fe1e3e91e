"""Files of weights: read without running what they contain, loaded only where all of it fits."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quiesce.errors import CheckpointError
from quiesce.extras import require
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.safetensors_header import refuse_long_header
from quiesce.files.untrusted.torch_pickles import refuse_absurd

_NESTED = ("state_dict", "model")  # where trainers keep the weights in their checkpoints
_PREFIXES = ("module.", "_orig_mod.", "model.")  # what wrappers put before every name
_COUNTER = "num_batches_tracked"  # of batch norm, missing in old files, of no use here


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name, onto the CPU.

    Pickled code is never run: torch.load with weights_only, or safetensors where the file's name
    ends so.

    Args:
        path: Of a state dict, or of a checkpoint that has one under "state_dict" or "model"; `~`
            is the home folder.

    Raises:
        CheckpointError: The file is missing, damaged, holds pickled code, or no named tensors.
        MissingExtraError: The file is of safetensors, which is not installed.
    """
    file = in_home(path)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file; model.weights must be one, or a known word")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return named_tensors(unpickled(file), file)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Copy `weights` into `model`, all of them or, on an error, none.

    Args:
        model: Changed in place.
        weights: Tensors by their names in the state dict; what wrappers put before every name
            ("module.", "_orig_mod.", "model.") is taken off.
        source: What messages call the file.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape, or not finite.
    """
    own = model.state_dict()
    given = _without_prefix(weights, own)
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    unknown = [name for name in given if name not in own]
    reshaped = [name for name in own if name in given and given[name].shape != own[name].shape]
    if missing or unknown or reshaped:
        raise CheckpointError(
            f"{source} is of another network than {type(model).__name__}: of its {len(given)} "
            f"tensors {len(unknown)} are unknown here and {len(reshaped)} have another shape, and "
            f"{len(missing)} of {len(own)} are missing"
            + _first_difference(given, own, missing, unknown, reshaped)
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source} is damaged: {name} is not finite")
    model.load_state_dict({**own, **given})


def _first_difference(
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    missing: list[str],
    unknown: list[str],
    reshaped: list[str],
) -> str:
    if reshaped:
        name = reshaped[0]
        theirs, ours = tuple(given[name].shape), tuple(own[name].shape)
        return f"; first {name}, {theirs} in the file, {ours} in the network"
    if missing:
        return f"; first missing: {missing[0]}"
    return f"; first unknown: {unknown[0]}"


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
        refuse_long_header(file)
        return load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(_damaged(file, error)) from error


def unpickled(file: Path) -> Any:
    """Return what torch.save wrote to `file`, tensors on the CPU, without running code.

    Raises:
        CheckpointError: The file is damaged, holds pickled code, or claims more than is there.
    """
    try:
        refuse_absurd(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is open: EOFError, KeyError, ...
        if isinstance(error, pickle.UnpicklingError) and "unsupported" in str(error).lower():
            raise CheckpointError(
                f"{file} holds pickled code, which is never run; save the weights alone: "
                "torch.save(model.state_dict(), path)"
            ) from error
        raise CheckpointError(_damaged(file, error)) from error


def named_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the tensors in what a file holds, by name; nested as `read_weights` says.

    Raises:
        CheckpointError: It holds no tensors by name.
    """
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no weights, but a {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file} holds no weights by name: {name!r} is a {type(value).__name__}"
            )
        if value.layout is not torch.strided or value.is_meta or value.is_complex():
            raise CheckpointError(f"{file} holds no weights: {name!r} is sparse, complex or empty")
    return dict(content)


def _damaged(file: Path, error: Exception) -> str:
    reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
    return f"{file} is damaged or cut off ({reason}); fetch it again"
