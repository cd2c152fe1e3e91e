from dataclasses import replace

import pytest
import torch

from quiesce.data import DataConfig
from quiesce.data.images import TensorImages
from quiesce.data.made_up import load
from quiesce.errors import DataError

CONFIG = DataConfig(name="made_up", classes=3, image_size=8, channels=2, train_images=90)


def test_images_are_a_function_of_the_seed() -> None:
    first, again, other = (load(CONFIG, seed=seed).train for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_sizes_are_those_of_the_config() -> None:
    images = load(CONFIG, seed=0)
    assert images.input_shape == (2, 8, 8)
    assert images.train[0][0].shape == (2, 8, 8)
    assert len(images.train) == 90
    assert len(images.test) == CONFIG.test_images


@pytest.mark.parametrize("field", ["train_images", "test_images", "image_size", "channels"])
def test_more_than_memory_holds_is_refused(field) -> None:
    with pytest.raises(DataError, match=r"made_up makes at most 33,554,432 pixels"):
        load(replace(CONFIG, **{field: 10**12}), seed=0)


def test_a_test_image_is_nearest_to_the_mean_of_its_class() -> None:
    images = load(CONFIG, seed=0)

    def tensors(half: TensorImages) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [half[index] for index in range(len(half))]
        return torch.stack([image for image, _ in pairs]), torch.tensor([y for _, y in pairs])

    train, labels = tensors(images.train)
    means = torch.stack([train[labels == number].mean(0) for number in range(3)])
    test, truth = tensors(images.test)
    nearest = torch.cdist(test.flatten(1), means.flatten(1)).argmin(1)
    assert torch.equal(nearest, truth)
