"""Test images of a finished run, over its batches."""

from types import SimpleNamespace

import pytest
import torch

from quiesce.after_training.finished import FinishedRun


@pytest.fixture
def run(tmp_path) -> FinishedRun:
    batches = [(torch.full((8, 1), float(i)), torch.zeros(8)) for i in range(3)]
    data = SimpleNamespace(test=batches)
    recipe = SimpleNamespace(trainer=SimpleNamespace(limit_val_batches=None))
    return FinishedRun(folder=tmp_path, recipe=recipe, data=data, network=torch.nn.Identity())


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (8, 8), (11, 11), (24, 24), (99, 24)])
def test_as_many_images_as_asked_or_as_there_are(run, count: int, expected: int) -> None:
    images = run.test_images(count)
    whole = torch.cat([each for each, _ in run.data.test])
    assert torch.equal(images, whole[:expected])
