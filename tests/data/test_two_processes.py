"""Two processes that read the same tar shards."""

import os
from pathlib import Path

import pytest

from data import resuming
from quiesce.data import DataConfig, build_data
from quiesce.errors import DataError
from support.messages import tells
from support.pictures import jpeg
from support.processes import together

pytestmark = pytest.mark.slow
SHARDS, PICTURES = 5, 38


def config(folder: Path, workers: int) -> DataConfig:
    return DataConfig(
        name="webdataset",
        train_shards=str(folder / "train-*.tar"),
        test_shards=str(folder / "train-0.tar"),
        image_size=16,
        batch_size=4,
        workers=workers,
        augment="none",
    )


def read(rank: int, folder: Path) -> dict:
    """Return the sums of a process's pictures, and what it does when resumed and refused."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    loader = build_data(config(folder, 2), seed=0).train
    batches = list(loader)
    sums = resuming.sums(batches)
    resumed = build_data(config(folder, 2), seed=0).train
    resumed.load_state_dict({"epoch": 0, "batches": 3})
    goes_on = resuming.same(list(resumed), batches[3:])
    with pytest.raises(DataError) as raised:
        next(iter(build_data(config(folder, 3), seed=0).train.sampler))
    return {"sums": sums, "goes on": goes_on, "refused": str(raised.value)}


def test_they_read_different_pictures_and_go_on(tmp_path) -> None:
    wds = pytest.importorskip("webdataset", reason="needs the extra webdataset")
    pattern = str(tmp_path / "train-%d.tar")
    with wds.ShardWriter(pattern, maxcount=PICTURES // SHARDS + 1, verbose=0) as writer:
        for number in range(PICTURES):
            writer.write({"__key__": f"{number:04d}", "jpg": jpeg(number), "cls": number % 2})
    first, second = together(read, 2, tmp_path / "group", tmp_path)
    assert len(first["sums"]) == len(second["sums"]) == PICTURES // 2 // 4 * 4
    assert not set(first["sums"]) & set(second["sums"])
    assert first["goes on"]
    assert second["goes on"]
    for each in (first, second):
        assert tells(each["refused"], "5 shards", "6 readers", "data.workers 3", "processes 2")
