import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import resuming
from quiesce.data import DataConfig, build_data
from quiesce.errors import DataError, MissingExtraError
from support.messages import tells
from support.pictures import jpeg

datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
datasets.disable_progress_bars()

CLASSES = ("cat", "dog")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(labels: int | list, *, kind=None, images: list | None = None):
    """A split of noise; a number of rows stands for alternating classes."""
    labels = [n % 2 for n in range(labels)] if isinstance(labels, int) else labels
    if images is None:
        images = [{"bytes": jpeg(n), "path": None} for n in range(len(labels))]
    kind = kind or datasets.ClassLabel(names=list(CLASSES))
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def numbered(labels: list):
    """A split whose labels are plain numbers."""
    return rows(labels, kind=datasets.Value("int64"))


def saved(folder: Path, **splits) -> Path:
    splits = splits or {"train": rows(22), "validation": rows(6)}
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return folder / "saved"


def config(folder: Path | None, **fields) -> DataConfig:
    where = None if folder is None else str(folder)
    fields = {"image_size": 16, "batch_size": 4, **fields}
    return DataConfig(name="huggingface", folder=where, **fields)


def refused(folder: Path | None, **fields) -> str:
    with pytest.raises(DataError) as raised:
        build_data(config(folder, **fields), seed=0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_folder_of_save_to_disk_gives_its_pictures_and_classes(tmp_path) -> None:
    data = build_data(config(saved(tmp_path)), seed=0)
    images, labels = next(iter(data.train))
    assert data.classes == CLASSES
    assert data.input_shape == (3, 16, 16)
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert [int(label) for _, batch in data.test for label in batch] == [0, 1, 0, 1, 0, 1]


def test_parquet_files_give_the_same_pictures(tmp_path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name, count in (("train", 22), ("test", 6)):
        rows(count).to_parquet(str(folder / f"{name}.parquet"))
    from_disk = resuming.epochs(config(saved(tmp_path)), 1)
    assert resuming.same(resuming.epochs(config(folder), 1), from_disk)


def test_a_picture_is_that_of_the_same_file_in_a_folder(tmp_path) -> None:
    for half in ("train", "val"):
        for number in range(4):
            folder = tmp_path / "files" / half / CLASSES[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
    options = {"image_size": 16, "batch_size": 4}
    files = build_data(DataConfig(name="folder", folder=str(tmp_path / "files"), **options), seed=0)
    ours = build_data(config(saved(tmp_path)), seed=0)
    of_files = {tuple(image.flatten().tolist()): label for image, label in files.test.dataset}
    assert all(
        of_files[tuple(ours.test.dataset[index][0].flatten().tolist())] == index % 2
        for index in range(4)
    )


def test_the_batches_depend_on_the_seed_alone(tmp_path) -> None:
    made = config(saved(tmp_path))
    assert resuming.depends_on_the_seed_alone(made)
    assert resuming.same(
        resuming.epochs(made, 2), resuming.epochs(resuming.with_workers(made, 2), 2)
    )


@pytest.mark.parametrize(("workers", "taken"), [(0, 2), pytest.param(1, 3, marks=pytest.mark.slow)])
def test_a_resumed_loader_goes_on_with_the_next_batch(workers, taken, tmp_path) -> None:
    assert resuming.goes_on(config(saved(tmp_path), workers=workers), taken)


def test_other_columns_and_splits_are_named(tmp_path) -> None:
    renamed = rows(8).rename_columns({"image": "img", "label": "fine"})
    folder = saved(tmp_path, learn=renamed, check=renamed)
    named = {"train_split": "learn", "test_split": "check"}
    data = build_data(config(folder, **named, image_column="img", label_column="fine"), seed=0)
    assert len(data.train) == 2
    assert tells(refused(folder, **named), "'image'", "data.image_column", "img, fine")
    told = refused(folder, **named, image_column="img", label_column="fin")
    assert tells(told, "'fin'", "data.label_column", "img, fine")


def test_whole_numbers_are_classes_too(tmp_path) -> None:
    folder = saved(tmp_path, train=numbered([0, 1] * 4), test=numbered([0, 1]))
    assert build_data(config(folder), seed=0).classes == ("0", "1")


@pytest.mark.parametrize(
    ("kind", "labels"), [("string", ["a"] * 8), ("float32", [0.5] * 8), ("bool", [True] * 8)]
)
def test_labels_of_another_kind_are_refused(kind: str, labels: list, tmp_path) -> None:
    other = rows(labels, kind=datasets.Value(kind))
    assert tells(refused(saved(tmp_path, train=other, test=other)), "train", "'label'", kind)


def test_images_without_label_are_refused(tmp_path) -> None:
    folder = saved(tmp_path, train=rows(8), test=rows(2))
    hidden = saved(tmp_path / "hidden", train=numbered([0, 1] * 4), test=numbered([-1]))
    missing = saved(tmp_path / "none", train=numbered([0, 1, None, None]), test=rows(2))
    assert len(build_data(config(folder), seed=0).train) == 2
    assert tells(refused(hidden), "split test", "-1")
    assert tells(refused(missing), "split train", "2 labels", "'label'")


def test_a_class_that_only_test_images_have_is_refused(tmp_path) -> None:
    folder = saved(tmp_path, train=numbered([0, 1] * 4), test=numbered([0, 5]))
    assert tells(refused(folder), "split test", "5", "1")


def test_one_class_is_not_enough(tmp_path) -> None:
    folder = saved(tmp_path, train=numbered([0] * 4), test=numbered([0]))
    assert tells(refused(folder), "split train", "one class", "(0)")


def test_other_names_of_classes_are_refused(tmp_path) -> None:
    other = rows(2, kind=datasets.ClassLabel(names=["dog", "cat"]))
    assert tells(refused(saved(tmp_path, train=rows(8), test=other)), "split train", "split test")


def test_a_column_without_images_is_refused(tmp_path) -> None:
    texts = datasets.Dataset.from_dict({"image": ["a"] * 4, "label": [0, 1, 0, 1]})
    assert tells(refused(saved(tmp_path, train=texts, test=texts)), "'image'", "string")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path) -> None:
    folder = saved(tmp_path, train=rows(8), val=rows(2), test=rows(2))
    assert tells(refused(folder), "train, val, test", "data.test_split")
    assert tells(refused(folder, test_split="tset"), "'tset'", "train, val, test")
    assert len(build_data(config(folder, test_split="val"), seed=0).test.dataset) == 2


def test_a_single_split_is_refused(tmp_path) -> None:
    rows(8).save_to_disk(tmp_path / "one")
    assert tells(refused(tmp_path / "one"), tmp_path / "one", "DatasetDict")


def test_folder_and_hub_are_not_both_given_and_one_is(tmp_path) -> None:
    assert tells(refused(None), "data.folder", "data.hub")
    assert tells(refused(tmp_path, hub="somebody/something"), "data.folder", "data.hub")


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path) -> None:
    assert tells(refused(tmp_path / "nowhere"), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert tells(refused(tmp_path / "empty"), tmp_path / "empty", "cannot be loaded")


def test_a_damaged_folder_is_one_line(tmp_path) -> None:
    folder = saved(tmp_path)
    for arrow in folder.rglob("*.arrow"):
        arrow.write_bytes(arrow.read_bytes()[:200])
    assert tells(refused(folder), folder, "cannot be loaded")


def damaged(count: int):
    pictures = [{"bytes": jpeg(n), "path": None} for n in range(count)]
    pictures[2]["bytes"] = pictures[2]["bytes"][:100]
    return rows(count, images=pictures)


def test_a_damaged_picture_is_found_before_training(tmp_path) -> None:
    folder = saved(tmp_path, train=damaged(8), test=rows(2))
    assert tells(refused(folder), "1 of 10", "split train: row 2")


@pytest.mark.parametrize("workers", [0, 1])
def test_among_many_it_is_named_when_it_is_read(workers: int, tmp_path) -> None:
    folder = saved(tmp_path, train=rows(8), test=damaged(8))
    data = build_data(config(folder, check_up_to=0, workers=workers), seed=0)
    with pytest.raises(DataError) as raised:
        list(data.test)
    assert tells(str(raised.value), "split test: row 2 cannot be decoded", " 2 ")
    assert "\n" not in str(raised.value)


def test_a_picture_that_is_missing_is_named(tmp_path) -> None:
    pictures = [{"bytes": jpeg(0), "path": None}, None] * 4
    folder = saved(tmp_path, train=rows(8, images=pictures), test=rows(2))
    data = build_data(config(folder, check_up_to=0), seed=0)
    with pytest.raises(DataError, match="row 1 is missing"):
        data.train.dataset[0, 1]


@pytest.mark.slow
def test_the_hub_without_a_network_is_one_line(tmp_path) -> None:
    flags = ["--data.name=huggingface", "--data.hub=nobody/nothing", f"--run={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "quiesce", "train", "mnist_lsq_w3a3", *flags],
        env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert tells(done.stderr.splitlines()[-1], "quiesce: nobody/nothing on the hub")
    assert "Traceback" not in done.stderr


def test_a_name_on_the_hub_goes_to_load_dataset_and_empty_splits_are_refused(monkeypatch) -> None:
    asked = []

    def load_dataset(name: str):
        asked.append(name)
        test = rows(2).select([]) if "empty" in name else rows(2)
        return datasets.DatasetDict(train=rows(8), test=test)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert tells(refused(None, hub="somebody/empty"), "somebody/empty, split test", "no image")
    data = build_data(config(None, hub="somebody/pictures"), seed=0)
    assert asked == ["somebody/empty", "somebody/pictures"]
    assert data.classes == CLASSES


def test_the_missing_package_is_named_with_its_extra(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[datasets\]'"):
        build_data(config(tmp_path), seed=0)
