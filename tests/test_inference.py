"""Modes come back, whatever happens inside the block; what the model reads of a batch."""

import pytest
import torch
from torch import nn

from quiesce.inference import buffers_of, inference, inputs_of, plain_average, put_back


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


def test_the_input_is_the_batch_or_its_first_entry() -> None:
    x, labels = torch.zeros(2, 3), torch.zeros(2)
    assert inputs_of(x) is x
    assert inputs_of((x, labels)) is x
    assert inputs_of([x]) is x


@pytest.mark.parametrize("batch", [{"x": torch.zeros(1)}, (), ["text"], 3])
def test_anything_else_is_refused(batch: object) -> None:
    with pytest.raises(TypeError, match="`batches` must yield tensors"):
        inputs_of(batch)  # type: ignore[arg-type]
