import pytest
import torch

from quiesce.data import DataConfig
from quiesce.data.images import TensorImages, channel_statistics
from quiesce.errors import DataError


def test_a_pixel_becomes_its_share_of_255_less_mean_over_std() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    images = TensorImages(
        pixels,
        torch.tensor([4]),
        mean=torch.tensor([0.1, 0.2, 0.3]),
        std=torch.tensor([0.5, 0.25, 2.0]),
    )
    image, label = images[0]
    expected = torch.tensor([(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 2.0])
    assert label == 4
    torch.testing.assert_close(image.flatten(), expected)


def test_changes_of_a_training_image_come_in_order() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    mean, std = torch.tensor([0.0]), torch.tensor([1 / 255])
    changes = (lambda image: image.flip(-1), lambda image: image + image[..., :1])
    images = TensorImages(pixels, torch.tensor([0]), mean=mean, std=std, augment=changes)
    expected = torch.tensor([[[4.0, 3.0, 2.0], [10.0, 9.0, 8.0]]])
    torch.testing.assert_close(images[0][0], expected)


def test_statistics_are_the_data_sets_own_unless_given() -> None:
    own = channel_statistics(DataConfig(), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    given = channel_statistics(
        DataConfig(mean=(0.5,), std=(0.1, 0.2, 0.3)), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    )
    torch.testing.assert_close(own["mean"], torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(given["mean"], torch.tensor([0.5, 0.5, 0.5]))
    torch.testing.assert_close(given["std"], torch.tensor([0.1, 0.2, 0.3]))


def test_statistics_for_another_number_of_channels_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.mean must be 1 or 3 numbers, got 2"):
        channel_statistics(DataConfig(mean=(0.1, 0.2)), (0.5,) * 3, (0.5,) * 3)
