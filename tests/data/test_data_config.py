import pytest

from quiesce.data import DataConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "mnist", "`name` must be one of mnist5k, .*, got 'mnist'"),
        ("augment", "heavy", "`augment` must be one of none, standard, got 'heavy'"),
        ("interpolation", "nearest", "`interpolation` must be one of bilinear, bicubic"),
        ("batch_size", 0, "`batch_size` must be at least 1, got 0"),
        ("test_batch_size", 0, "`test_batch_size` must be at least 1, got 0"),
        ("workers", -1, "`workers` must be at least 0, got -1"),
        ("image_size", 7, "`image_size` must be at least 8, got 7"),
        ("crop_share", 0.0, "`crop_share` must be above 0 and at most 1, got 0.0"),
        ("crop_share", 1.1, "`crop_share` must be above 0 and at most 1, got 1.1"),
        ("std", (0.5, 0.0, 0.5), "`std` must be above 0 in every channel"),
        ("std", (), "`std` must be above 0 in every channel"),
        ("check_up_to", -1, "`check_up_to` must be at least 0, got -1"),
        ("classes", 1, "`classes` must be 2 to 10,000, got 1"),
        ("train_images", 0, "`train_images` must be at least 1, got 0"),
        ("test_images", 0, "`test_images` must be at least 1, got 0"),
        ("channels", 0, "`channels` must be at least 1, got 0"),
    ],
)
def test_a_bad_value_names_its_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**{field: value})
