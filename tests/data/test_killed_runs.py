"""Runs on every source of pictures that are killed within an epoch end as runs that were not."""

from pathlib import Path

import pytest

from support.killed_runs import Killer, assert_same_run
from support.pictures import jpeg

pytestmark = pytest.mark.slow


def of_datasets(folder: Path) -> dict[str, object]:
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}

    def split(count: int):
        pictures = [{"bytes": jpeg(number), "path": None} for number in range(count)]
        columns = {"image": pictures, "label": [number % 2 for number in range(count)]}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))

    datasets.DatasetDict(train=split(22), test=split(8)).save_to_disk(folder / "saved")
    return {"data.name": "huggingface", "data.folder": folder / "saved", "data.workers": 1}


def of_webdataset(folder: Path) -> dict[str, object]:
    wds = pytest.importorskip("webdataset", reason="needs the extra webdataset")
    for name, count in (("train", 22), ("test", 8)):
        with wds.ShardWriter(str(folder / f"{name}-%d.tar"), maxcount=6, verbose=0) as writer:
            for number in range(count):
                sample = {"jpg": jpeg(number), "cls": number % 2}
                writer.write({"__key__": f"{number:04d}", **sample})
    shards = {f"data.{name}_shards": folder / f"{name}-*.tar" for name in ("train", "test")}
    return {"data.name": "webdataset", "data.workers": 2, **shards}


@pytest.mark.parametrize("source", [of_datasets, of_webdataset])
def test_a_killed_run_goes_on_within_an_epoch(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields = source(tmp_path)
    fields |= {"float_stage.epochs": 1, "trainer.max_epochs": 2}
    killer = Killer(1, [f"--{name}={value}" for name, value in fields.items()])
    killer.whole(tmp_path / "whole")
    assert killer.kill_in_write(tmp_path / "killed", 5)
    killer.whole(tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
