import pytest
import torch

from quiesce.data import DataConfig
from quiesce.data.images import Mirror, Shift, TensorImages, channel_statistics
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


def test_a_shift_moves_all_pixels_alike_and_at_most_its_reach() -> None:
    image = torch.zeros(1, 9, 9)
    image[0, 4, 4] = 1
    image[0, 4, 5] = 2
    places = set()
    for _ in range(300):
        moved = Shift(2)(image)
        row, column = (int(place) for place in (moved[0] == 1).nonzero()[0])
        assert moved[0, row, column + 1] == 2
        assert moved.sum() == 3
        places.add((row - 4, column - 4))
    assert places == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


def test_a_mirror_swaps_left_and_right_in_about_half_of_all_cases() -> None:
    image = torch.arange(6.0).view(1, 2, 3)
    turned = 0
    for _ in range(400):
        seen = Mirror()(image)
        turned += int(torch.equal(seen, image.flip(-1)))
        assert torch.equal(seen, image) or torch.equal(seen, image.flip(-1))
    assert 140 <= turned <= 260  # six deviations of a binomial with n = 400, p = 1/2


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
