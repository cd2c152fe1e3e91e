"""Two processes that train one network by a recipe: what each of them comes to."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from quiesce.errors import CheckpointError, DiskFullError
from quiesce.recipes.reading import read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.training.run import resume, run
from support.killed_runs import FLAGS
from support.messages import tells
from support.processes import together

pytestmark = pytest.mark.slow  # the processes take most of the time, and all tests share them

SHORT = {
    "trainer.strategy": "ddp",
    "trainer.devices": 2,
    "trainer.deterministic": "false",
    "float_stage.epochs": "null",
    "data.batch_size": 2,
    "data.train_images": 12,
    "data.test_images": 9,  # shares of 5 and 4: 3 and 2 batches
    "recording.batchnorm_every": "null",
    "recording.trajectory_steps": 2,
}

WRITERS = (
    "quiesce.run_folder.checkpoint_file.write_beside",
    "quiesce.training.recording.recorder._write_arrays",
)


def recipe(folder: Path, **changes: Any) -> Recipe:
    flags = {**FLAGS, **SHORT, **{name.replace("__", "."): v for name, v in changes.items()}}
    argv = [f"--{name}={value}" for name, value in flags.items()]
    return read_recipe("mnist_freeze_w3a3", [*argv, f"--run={folder}"])


def train_whole(folder: Path) -> dict[str, Any]:
    """Two epochs; gives what was measured, and what DDP sent within validations."""
    sent, sync = [], DistributedDataParallel._sync_buffers

    def noting(model: DistributedDataParallel) -> None:
        sent.append(model.module.training)
        sync(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistributedDataParallel, "_sync_buffers", noting)
        summary = run(recipe(folder, trainer__max_epochs=2))
    return {"top1": summary["top1_percent"], "in training": set(sent)}


def train_half(folder: Path, rank: int) -> dict[str, Any]:
    """Ends within an epoch, with no validation after the last step; then goes on from there.

    At first one of them does not see the checkpoint.
    """
    before = run(recipe(folder, trainer__max_epochs=2, trainer__max_steps=5))
    distributed.barrier()
    again = folder.with_name("again")
    if rank == 0:
        shutil.copytree(folder, again)
        (again / "summary.json").unlink()
    distributed.barrier()
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr("quiesce.training.run.find_checkpoint", lambda *_: None)
        with pytest.raises(CheckpointError) as told:
            resume(again)
    measured = [summary["top1_percent"] for summary in (before, resume(again))]
    return {"half": measured, "refused": str(told.value)}


def meet_a_full_disk(folder: Path, rank: int, where: str) -> str:
    """What is raised where the first process alone cannot write."""

    def full(*_: Any, **__: Any) -> None:
        raise DiskFullError(f"{where} cannot be written")

    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr(where, full)
        with pytest.raises(DiskFullError) as told:
            run(recipe(folder, checkpoint__every=2, trainer__max_epochs=2))
    return str(told.value)


def train(rank: int, folder: Path) -> dict[str, Any]:
    rank_zero_only.rank = rank  # known before lightning is imported, where a launcher starts it
    os.chdir(folder)
    return {
        "whole": train_whole(folder / "whole"),
        **train_half(folder / "half", rank),
        "full": [meet_a_full_disk(folder / "full", rank, where) for where in WRITERS],
    }


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("processes")
    return folder, together(train, 2, folder / "rendezvous", folder)


def test_accuracy_is_of_the_test_images_of_all_processes(processes) -> None:
    folder, (first, second) = processes
    with (folder / "whole" / "metrics.csv").open() as file:
        logged = [float(row["top1_percent"]) for row in csv.DictReader(file) if row["top1_percent"]]
    assert len(logged) == 2
    for top1 in logged:  # float32
        assert top1 * 9 / 100 == pytest.approx(round(top1 * 9 / 100), abs=1e-5)
    assert logged[-1] == pytest.approx(first["whole"]["top1"]["trained"], rel=1e-6)
    assert first["whole"]["top1"] == second["whole"]["top1"]


def test_a_validation_sends_nothing_in_its_forwards(processes) -> None:
    _, ranks = processes
    assert [each["whole"]["in training"] for each in ranks] == [{True}, {True}]


def test_what_is_measured_after_training_is_of_one_network(processes) -> None:
    folder, ranks = processes
    for before, after in (each["half"] for each in ranks):
        assert before == after
    first, second = (
        json.loads((folder / name / "diagnosis.json").read_text()) for name in ("half", "again")
    )
    assert first == second


def test_all_go_on_from_the_same_checkpoint_or_none_does(processes) -> None:
    folder, (first, second) = processes
    assert first["refused"] == second["refused"]
    told = first["refused"]
    assert tells(told, "rank 0", "rank 1", "step 5", "last.ckpt", folder / "again")


def test_all_stop_where_the_first_can_not_write(processes) -> None:
    _, (first, second) = processes
    for told in (first["full"], second["full"]):
        assert [each.partition(" cannot be written")[0] for each in told] == list(WRITERS)
