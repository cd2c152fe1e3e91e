"""CIFAR from a folder in the published layout, with made-up pictures; the checksums are stubbed."""

import pickle
from pathlib import Path

import numpy
import pytest
import torch

from quiesce.data import DataConfig, build_data
from quiesce.data.cifar import load
from quiesce.errors import DataError


def write(file: Path, content: dict) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(content))


@pytest.fixture
def cifar(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both data sets, 4 pictures a file; their checksums are taken as right."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    noise = numpy.random.default_rng(0)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for name in names:
        pixels = noise.integers(0, 256, (4, 3072), dtype=numpy.uint8)
        content = {"data": pixels, "labels": [3, 1, 2, 0]}
        write(tmp_path / "cifar-10-batches-py" / name, content)
    write(
        tmp_path / "cifar-10-batches-py" / "batches.meta",
        {"label_names": [f"kind {number}" for number in range(10)]},
    )
    for name in ("train", "test"):
        pixels = noise.integers(0, 256, (4, 3072), dtype=numpy.uint8)
        content = {"data": pixels, "fine_labels": [99, 1, 2, 0]}
        write(tmp_path / "cifar-100-python" / name, content)
    write(
        tmp_path / "cifar-100-python" / "meta",
        {"fine_label_names": [f"kind {number}" for number in range(100)]},
    )
    return tmp_path


def config(folder: Path | None, name: str = "cifar10", **fields) -> DataConfig:
    where = None if folder is None else str(folder)
    return DataConfig(name=name, folder=where, batch_size=4, **fields)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_both_data_sets_are_read(name: str, classes: int, cifar: Path) -> None:
    data = build_data(config(cifar, name), seed=0)
    assert len(data.classes) == classes
    assert data.classes[7] == "kind 7"
    assert data.input_shape == (3, 32, 32)
    assert next(iter(data.train))[0].shape == (4, 3, 32, 32)


def test_pictures_keep_rows_columns_and_colours(cifar: Path) -> None:
    file = cifar / "cifar-10-batches-py" / "test_batch"
    content = pickle.loads(file.read_bytes())
    pixels = content["data"].reshape(4, 3, 32, 32)  # as published: all red rows, green, blue
    images = load(config(cifar, mean=(0.0,), std=(1.0,)), seed=0).test
    image, label = images[1]
    assert label == 1
    torch.testing.assert_close(image, torch.from_numpy(pixels[1]) / 255)


def test_training_pictures_are_shifted_and_mirrored_unless_told_otherwise(cifar: Path) -> None:
    augmented = load(config(cifar), seed=0).train
    plain = load(config(cifar, augment="none"), seed=0).train
    assert not torch.equal(augmented[0][0], augmented[0][0])
    assert torch.equal(plain[0][0], plain[0][0])


def test_no_folder_is_given() -> None:
    with pytest.raises(DataError, match=r"cifar10 needs data\.folder"):
        load(config(None), seed=0)


def test_missing_or_damaged_files_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"does not hold cifar100: cifar-100-python is missing"):
        load(config(tmp_path, "cifar100"), seed=0)


def test_another_size_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="`image_size` must be 32 for cifar10, got 64"):
        load(config(tmp_path, image_size=64), seed=0)
