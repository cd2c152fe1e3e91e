"""Accuracy in percent, over exactly the images that were asked for."""

import pytest
import torch
from torch import nn

from quiesce.errors import DataError
from quiesce.training.scores import batches_within, loss_and_top1


class Echo(nn.Module):
    """Says the class that the image holds; wrong where dropout is awake."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(1.0)

    def forward(self, images):
        return self.dropout(nn.functional.one_hot(images, 3).float()) * self.weight


def test_images_count_alike_whatever_batch_they_are_in():
    batches = [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])), (torch.tensor([2]),) * 2]
    assert loss_and_top1(Echo(), batches).top1_percent == 75.0


def test_a_batch_is_any_input_and_its_labels():
    images, labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])
    for batch in ([images, labels], ({"images": images}, labels), ((images,), labels, "names")):
        assert loss_and_top1(Echo(), [batch]).top1_percent == pytest.approx(200 / 3)


def test_the_mode_of_the_network_comes_back():
    network = Echo().train()
    loss_and_top1(network, [(torch.tensor([1]), torch.tensor([1]))])
    assert network.training


def test_no_image_is_an_error():
    with pytest.raises(DataError, match="no image"):
        loss_and_top1(Echo(), [])


@pytest.mark.parametrize(
    ("limit", "batches"), [(None, 10), (3, 3), (30, 10), (0.25, 2), (0.01, 1), (1.0, 10)]
)
def test_a_limit_is_a_number_or_a_share(limit, batches):
    assert batches_within(limit, 10) == batches
