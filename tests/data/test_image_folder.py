from pathlib import Path

import pytest
import torch

from quiesce.data import DataConfig, build_data
from quiesce.errors import DataError
from support.messages import tells


def config(folder: Path | str | None, **fields) -> DataConfig:
    where = None if folder is None else str(folder)
    return DataConfig(name="folder", folder=where, image_size=32, batch_size=2, **fields)


def refused(folder: Path | str | None, **fields) -> str:
    with pytest.raises(DataError) as raised:
        build_data(config(folder, **fields), seed=0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_classes_are_the_folders_in_order_of_their_names(make_folder) -> None:
    data = build_data(config(make_folder(("dog", "ant", "cat"))), seed=0)
    images, _ = next(iter(data.train))
    assert data.classes == ("ant", "cat", "dog")
    assert data.input_shape == (3, 32, 32)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.float32
    assert [int(label) for _, batch in data.test for label in batch] == [0] * 4 + [1] * 4 + [2] * 4


def test_training_images_are_augmented_unless_told_otherwise(make_folder) -> None:
    folder = make_folder()
    augmented = build_data(config(folder), seed=0).train.dataset
    plain = build_data(config(folder, augment="none"), seed=0)
    assert not torch.equal(augmented[0, 3][0], augmented[1, 3][0])
    assert torch.equal(plain.train.dataset[0, 3][0], plain.train.dataset[1, 3][0])


def test_the_test_image_is_the_centre_of_the_resized_picture(tmp_path, make_folder) -> None:
    from PIL import Image

    folder = make_folder()
    stripes = Image.new("RGB", (128, 64), (0, 0, 0))
    stripes.paste((255, 0, 0), (32, 0, 96, 64))  # the middle square is red
    stripes.save(folder / "val" / "cat" / "0.png")
    data = build_data(config(folder, crop_share=0.5, mean=(0.0,), std=(1.0,)), seed=0)
    files = [Path(path).name for path, _ in data.test.dataset.samples]
    image, _ = data.test.dataset[files.index("0.png")]
    # 64 pixels of the shorter side stay 64 (32 / 0.5), and the crop is the inner half of the red
    torch.testing.assert_close(image[0], torch.ones(32, 32))
    torch.testing.assert_close(image[1:], torch.zeros(2, 32, 32))


def test_mean_and_std_are_taken_from_the_config(make_folder) -> None:
    folder = make_folder()
    raw = build_data(config(folder, mean=(0.0,), std=(1.0,)), seed=0).test.dataset[0][0]
    scaled = build_data(config(folder, mean=(0.498,), std=(0.502,)), seed=0).test.dataset[0][0]
    torch.testing.assert_close(scaled, (raw - 0.498) / 0.502)


def test_no_folder_is_given() -> None:
    assert tells(refused(None), "data.folder", "train/", "val/")


def test_a_missing_folder_is_named(tmp_path) -> None:
    assert f"{tmp_path / 'nowhere'} is not a folder" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("half", ["train", "val"])
def test_a_missing_half_is_named(half: str, tmp_path) -> None:
    (tmp_path / ("val" if half == "train" else "train")).mkdir()
    assert tells(refused(tmp_path), tmp_path / half, "data.folder")


def test_a_folder_without_class_folders_is_refused(tmp_path) -> None:
    for half in ("train", "val"):
        (tmp_path / half).mkdir()
    assert tells(refused(tmp_path), tmp_path / "train")


def test_a_class_without_pictures_is_named(make_folder) -> None:
    folder = make_folder(("cat", "dog"))
    (folder / "val" / "bird").mkdir()
    assert "bird" in refused(folder)


def test_one_class_is_not_enough(make_folder) -> None:
    folder = make_folder(("cat",))
    assert refused(folder) == (
        f"{folder / 'train'} has only one class (cat); training needs two or more"
    )


def test_train_and_val_must_have_the_same_classes(make_folder) -> None:
    folder = make_folder(("cat", "dog", "owl"))
    (folder / "val" / "owl").rename(folder / "val" / "bird")
    assert "bird" in refused(folder)


@pytest.mark.parametrize("half", ["train", "val"])
def test_a_cut_off_picture_is_found_before_training(half: str, make_folder, cut_off) -> None:
    folder = make_folder()
    damaged = folder / half / "dog" / "2.jpg"
    cut_off(damaged)
    message = refused(folder)
    assert tells(message, "1 of 16", damaged, "15")


def test_all_damaged_pictures_are_counted(make_folder, cut_off) -> None:
    folder = make_folder()
    cut_off(folder / "train" / "cat" / "1.jpg")
    (folder / "train" / "dog" / "0.png").write_text("no picture at all")
    (folder / "val" / "dog" / "0.png").write_bytes(b"")
    assert "3 of 18" in refused(folder)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_a_large_folder_it_is_named_when_it_is_read(workers: int, make_folder, cut_off) -> None:
    folder = make_folder()
    damaged = folder / "val" / "dog" / "1.jpg"
    cut_off(damaged)
    data = build_data(config(folder, check_up_to=15, workers=workers), seed=0)
    with pytest.raises(DataError) as raised:
        list(data.test)
    message = str(raised.value)
    assert message.startswith(f"{damaged} cannot be decoded (")
    assert " 5 " in message  # pictures that were good
    assert "\n" not in message
