import pytest
import torch

from quiesce.data import DataConfig
from quiesce.data.images import Images
from quiesce.data.mnist5k import load


@pytest.fixture(scope="module")
def digits() -> Images:
    return load(DataConfig(), seed=0)


def test_4000_and_1000_digits_as_many_of_each(digits: Images) -> None:
    assert torch.tensor(digits.train.labels).bincount().tolist() == [400] * 10
    assert torch.tensor(digits.test.labels).bincount().tolist() == [100] * 10
    assert digits.classes == tuple("0123456789")
    assert digits.input_shape == (1, 32, 32)


def test_no_test_digit_is_trained_on(digits: Images) -> None:
    train = {image.numpy().tobytes() for image in digits.train.images}
    assert not any(image.numpy().tobytes() in train for image in digits.test.images)


@pytest.mark.slow
def test_the_training_images_have_mean_0_and_deviation_1() -> None:
    plain = load(DataConfig(augment="none"), seed=0).train
    images = torch.stack([plain[index][0] for index in range(len(plain))])
    # the constants have four decimals: 0.00005 of mean or deviation over a deviation of 0.2754
    assert images.mean().abs() < 3e-4
    assert (images.std() - 1).abs() < 3e-4


@pytest.mark.parametrize("side", [28, 31, 40])
def test_digits_keep_their_pixels_at_any_size(side: int, digits: Images) -> None:
    other = load(DataConfig(image_size=side), seed=0)
    start = (side - 28) // 2
    core = other.test.images[..., start : start + 28, start : start + 28]
    assert other.input_shape == (1, side, side)
    assert other.test.images.shape[-2:] == (side, side)
    assert torch.equal(core, digits.test.images[..., 2:30, 2:30])


def test_training_digits_are_shifted_and_test_digits_are_not(digits: Images) -> None:
    first, second = (digits.train[0][0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(digits.test[0][0], digits.test[0][0])


def test_an_image_smaller_than_a_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="`image_size` must be at least 28 for mnist5k, got 16"):
        load(DataConfig(image_size=16), seed=0)
