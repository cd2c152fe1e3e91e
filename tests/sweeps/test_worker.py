"""A worker does what is left of its task, and does not outlive the process that started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quiesce.recipes.reading import read_recipe, write_recipe
from quiesce.sweeps.processes import run_process
from quiesce.sweeps.task import Task
from support.engines import work_here

QUICK = "mnist_freeze_w3a3"


@pytest.fixture
def task(tiny_flags, tmp_path):
    def make(*flags):
        path = tmp_path / "recipe.yaml"
        path.write_text(write_recipe(read_recipe(QUICK, [*tiny_flags, *flags])))
        return Task(name="a", recipe=path, folder=tmp_path / "a", log=tmp_path / "logs" / "a.log")

    return make


def test_a_folder_without_a_checkpoint_begins_again_and_a_finished_run_stays(task):
    one = task()
    one.folder.mkdir()
    (one.folder / "half").touch()
    assert work_here(one) == ""
    assert not (one.folder / "half").exists()
    written = (one.folder / "summary.json").read_bytes()
    assert work_here(one) == ""
    assert (one.folder / "summary.json").read_bytes() == written


@pytest.mark.slow
def test_a_wrong_recipe_is_one_line(task):
    one = task("--model.weights=gone.pt")
    assert "gone.pt" in run_process(one)
    assert one.log.read_text().count("\n") == 1


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_killed_and_another_continues(task):
    one = task("--trainer.max_steps=100000", "--trainer.max_epochs=100000", "--checkpoint.every=2")
    code = (
        "import sys; from quiesce.sweeps.processes import run_process; "
        "from quiesce.sweeps.task import Task; run_process(Task.from_json(sys.argv[1]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, one.to_json()])
    checkpoint = one.folder / "checkpoints" / "last.ckpt"
    until_s = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < until_s:
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while (written := checkpoint.stat().st_mtime_ns) and time.monotonic() < until_s:
        time.sleep(2)
        if checkpoint.stat().st_mtime_ns == written:
            break
    assert "resume" in one.log.read_text().splitlines()[-1]
    step = json.loads(_last_step(one.folder))
    for recipe in (one.recipe, one.folder / "recipe.yaml"):
        recipe.write_text(recipe.read_text().replace("max_steps: 100000", f"max_steps: {step + 2}"))
    assert run_process(one) == ""
    assert "resuming from" in one.log.read_text()


def _last_step(folder: Path) -> str:
    return (folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0]
