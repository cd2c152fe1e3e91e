"""Modes come back, whatever happens inside the block; what the model reads of a batch."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from quiesce.inference import (
    arguments_of,
    buffers_of,
    call_on_batch,
    inference,
    map_tensors,
    named_tensors,
    plain_average,
    put_back,
    split_batch,
)


def mixed() -> nn.Sequential:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3, momentum=0.2), nn.Dropout(0.5))
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_inference_ends_with_every_module_in_its_own_mode() -> None:
    model = mixed()
    before = modes(model)
    with inference(model):
        assert modes(model) == [False] * 4
    assert modes(model) == before == [True, True, False, True]


def test_inference_ends_so_after_an_error_too() -> None:
    model = mixed()
    with pytest.raises(RuntimeError, match="inside"), inference(model):
        raise RuntimeError("inside")
    assert modes(model) == [True, True, False, True]


def test_a_module_that_overrides_train_comes_back() -> None:
    class AlwaysInference(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "AlwaysInference":
            return super().train(False)

    model = nn.Sequential(AlwaysInference(2))
    model[0].training = True
    with inference(model):
        pass
    assert model[0].training


def test_plain_average_weighs_all_batches_alike() -> None:
    norm, batches = mixed()[1], torch.randn(5, 4, 3, 7)
    with plain_average([norm]):
        for batch in batches:
            norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean(dim=(0, 1, 3)))
    each = torch.stack([batch.var(dim=(0, 2)) for batch in batches])
    torch.testing.assert_close(norm.running_var, each.mean(dim=0))
    assert norm.momentum == 0.2
    assert not norm.training


def test_plain_average_puts_everything_back_after_an_error() -> None:
    norm = mixed()[1]
    norm.running_mean += 3
    before = buffers_of(norm)
    with pytest.raises(ValueError, match="expected 2D or 3D"), plain_average([norm]):
        norm(torch.zeros(3))
    assert norm.momentum == 0.2
    assert not norm.training
    assert all(torch.equal(norm.get_buffer(name), old) for name, old in before.items())


def test_put_back_undoes_a_change_through_the_same_tensors() -> None:
    norm = nn.BatchNorm1d(3)
    mean, before = norm.running_mean, buffers_of(norm)
    norm(torch.randn(4, 3) + 5)
    put_back(norm, before)
    assert norm.running_mean is mean
    assert torch.equal(mean, torch.zeros(3))


class Two(nn.Module):
    """Takes two arguments."""

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return x + shift


X, Y = torch.ones(2, 3), torch.full((2, 3), 2.0)


@pytest.mark.parametrize(
    "batch",
    [((X, Y),), ((X, Y), "label"), {"x": X, "shift": Y}, ({"x": X, "shift": Y}, torch.zeros(2))],
)
def test_two_arguments_by_place_and_by_name(batch: object) -> None:
    assert torch.equal(call_on_batch(Two(), batch), X + Y)


def test_the_first_entry_is_the_input_and_the_second_the_label() -> None:
    labels = torch.zeros(2)
    assert split_batch(X) == (X, None)
    for batch in ((X, labels), [X, labels], (X, labels, "name of a file")):
        model_input, label = split_batch(batch)
        assert model_input is X
        assert label is labels


def test_images_beside_targets_are_a_list_of_images() -> None:
    images, targets = (torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)), ({"boxes": X}, {"boxes": Y})
    for batch in ((images, targets), (list(images), list(targets))):
        model_input, label = split_batch(batch)
        assert isinstance(model_input, list)
        assert label == batch[1]
        assert arguments_of(model_input).args[0] is model_input


def test_a_tuple_with_names_is_one_argument() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)])
    assert arguments_of(split_batch(packed)[0]).args == (packed,)
    out, _ = call_on_batch(nn.GRU(2, 4), packed)
    assert out.data.shape == (5, 4)


def test_a_forward_of_the_user_gets_model_and_batch() -> None:
    batch = object()
    assert call_on_batch(nn.ReLU(), batch, lambda model, given: (model, given))[1] is batch


@pytest.mark.parametrize("batch", [{"x": 1}, (), ["text"], 3])
def test_a_batch_without_a_tensor_is_refused(batch: object) -> None:
    with pytest.raises(TypeError, match="forward"):
        split_batch(batch)


def test_arguments_that_do_not_fit_say_how_to_give_them() -> None:
    with pytest.raises(TypeError, match=r"Two.*'shift'.*\(\(x, y\),\)"):
        call_on_batch(Two(), (X, Y))


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    more: list[torch.Tensor]
    loss: torch.Tensor | None = None


def test_tensors_are_found_by_name_and_replaced_in_place() -> None:
    tree = {"a": X, "b": [Y, 3], "c": Point(X, Y), "d": Output(X, [Y])}
    assert [name for name, _ in named_tensors(tree, "out")] == [
        "out.a",
        "out.b.0",
        "out.c.x",
        "out.c.y",
        "out.d.logits",
        "out.d.more.0",
    ]
    shapes = map_tensors(tree, lambda tensor: tuple(tensor.shape))
    assert shapes == {
        "a": (2, 3),
        "b": [(2, 3), 3],
        "c": Point((2, 3), (2, 3)),
        "d": {"logits": (2, 3), "more": [(2, 3)], "loss": None},
    }
