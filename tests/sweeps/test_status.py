"""Where a sweep stands, read from its folder."""

import json
import os
import time

import pytest

from quiesce.errors import RecipeError
from quiesce.sweeps import status
from quiesce.sweeps.status import StatusReader, read_status
from quiesce.sweeps.task_state import LOST_S, write_progress, write_state

NAMES = ["waits", "runs", "done", "failed", "lost"]


def write_names(folder, names):
    runs = [{"folder": name, "fields": {}, "seed": 0} for name in names]
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "runs": runs}))


@pytest.fixture
def folder(tmp_path):
    """A sweep of five runs: waiting, running, done, failed, and lost."""
    write_names(tmp_path, NAMES)
    for name in ("logs", "runs", "done"):
        (tmp_path / name).mkdir()
    began_s = time.time() - 100
    for name, state in (("runs", "running"), ("failed", "failed"), ("lost", "running")):
        write_state(tmp_path / "logs" / f"{name}.json", state, why="disk full", began_s=began_s)
    old_s = time.time() - 2 * LOST_S
    os.utime(tmp_path / "logs" / "lost.json", (old_s, old_s))
    write_state(tmp_path / "logs" / "float-seed0.json", "running", began_s=began_s)
    write_progress(tmp_path / "logs" / "runs.progress", "runs", 20, 40)
    (tmp_path / "runs" / "metrics.csv").write_text(
        "step,epoch,top1_percent\n10,0,50.5\n15,0,\n20,1,61.5\n21,2,\n"
    )
    (tmp_path / "done" / "summary.json").write_text("{}")
    write_state(tmp_path / "logs" / "done.json", "done", began_s=began_s)
    return tmp_path


def test_each_run_has_its_state(folder):
    status = read_status(folder)
    states = {run.name: run.state for run in status.runs}
    assert states == {
        "waits": "waiting",
        "runs": "running",
        "done": "done",
        "failed": "failed",
        "lost": "lost",
    }
    assert status.runs[3].why == "disk full"
    assert [task.name for task in status.floats] == ["float-seed0"]


def test_a_running_run_shows_its_epochs_and_accuracy(folder):
    run = read_status(folder).runs[1]
    assert (run.epoch, run.step, run.steps, run.top1_percent) == (2, 20, 40, 61.5)
    assert run.part == 0.5
    assert 100 <= run.seconds < 130


def test_the_time_left_follows_from_what_is_done(folder):
    # finished: 100 s; half of the running one took 100 s: a run takes 150 s; 2.5 runs are left
    assert read_status(folder).seconds_left == pytest.approx(375, rel=0.1)


def test_nothing_is_estimated_before_anything_is_known(folder):
    for name in ("runs", "lost", "done"):
        (folder / "logs" / f"{name}.json").unlink()
    assert read_status(folder).seconds_left is None


def test_a_file_that_is_being_written_is_no_error(folder):
    (folder / "runs" / "metrics.csv").write_text("step,epo")
    (folder / "logs" / "runs.json").write_text('{"state": "runn')
    assert read_status(folder).runs[1].state == "waiting"


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"sweep\.json"):
        read_status(tmp_path)


def test_a_reader_sees_what_changes_and_reads_nothing_else_again(folder, monkeypatch):
    reader = StatusReader(folder)
    reader.read()
    again = []
    real = status._status
    monkeypatch.setattr(status, "_status", lambda *args: again.append(args[1]) or real(*args))
    assert [run.state for run in reader.read().runs][:2] == ["waiting", "running"]
    again.clear()
    reader.read()
    assert sorted(again) == ["float-seed0", "lost", "runs"]  # it may end; it may be found again
    (folder / "logs" / "failed.json").unlink()  # the sweep is called again
    write_state(folder / "logs" / "waits.json", "running", began_s=time.time())
    (folder / "runs" / "summary.json").write_text("{}")
    names = [*NAMES, "late"]
    write_names(folder, names)
    now = {run.name: run.state for run in reader.read().runs}
    assert now == dict(
        zip(names, ["running", "done", "done", "waiting", "lost", "waiting"], strict=True)
    )
