"""States of models, trackers and controls: compared bit for bit, and written to files."""

import io
from typing import Any

import torch
from torch import Tensor, nn


def assert_same_state(one: Any, two: Any) -> None:
    """Equal bit for bit, tensors wherever they are."""
    assert type(one) is type(two)
    if isinstance(one, Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        assert_same_state(list(one.values()), list(two.values()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for mine, theirs in zip(one, two, strict=True):
            assert_same_state(mine, theirs)
    else:
        assert one == two


def assert_parameters_own_their_memory(model: nn.Module) -> None:
    """No parameter shares its storage: a saver would write too much, or leave weights out."""
    for name, parameter in model.named_parameters():
        held = parameter.untyped_storage().nbytes()
        assert held == parameter.numel() * parameter.element_size(), name


def through_a_file(state: Any) -> Any:
    """What is read back of a state, by the reader that runs no code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
