"""Checks at the start of every export."""

from pathlib import Path

import torch
from torch import nn

from quiesce.errors import DivergedError, ExportError, QuiesceError
from quiesce.export.biases.layer_integers import check_all_called, read_inputs, read_integers
from quiesce.export.interface import Example, example_of, output_tensors
from quiesce.inference import Input, inference
from quiesce.quantization.describe import left_float as left_float


def check_path(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of a file to write.

    Raises:
        ExportError: It exists and `overwrite` is False, or its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        how = "--force, or overwrite=True in a program"
        raise ExportError(f"{path} exists already; give another file, or replace it ({how})")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {path.parent}; create it first")
    return path


def check_runs(model: nn.Module, example_input: Input) -> Example:
    """Run a prepared model once, and refuse a model that cannot be exported before the slow trace.

    Returns:
        The arguments for `example_input`.

    Raises:
        TypeError, ValueError: `example_input` holds no tensor, or an empty one.
        DivergedError: A parameter holds NaN.
        ExportError: The model does not run on it, or returns something other than tensors.
        NotCalibratedError: A quantizer has no scale yet.
        NothingToDoError: The model is not prepared, or a layer is not called.
    """
    example = example_of(model, example_input)
    for name, values in model.named_parameters():
        if bool(values.isnan().any()):
            raise DivergedError(f"{name} holds NaN; export a checkpoint from before that step")
    layers = read_integers(model)
    read_inputs(model)
    called: set[str] = set()
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
        for name in layers
    ]
    few = example.rows(0, 2).to(next(model.parameters()).device)
    try:
        with inference(model), torch.no_grad():
            output_tensors(few.run(model))
    except QuiesceError:
        raise
    except Exception as error:  # of the user's model
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        name = type(model).__name__
        raise ExportError(f"{name} does not run on `example_input`: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()
    check_all_called(layers, called)
    return example
