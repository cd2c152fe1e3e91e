"""Sweeps as jobs of submitit, whose local executor stands for Slurm: time limits, requeues."""

import json
import os
import signal
import threading
import time

import pytest

from quiesce.errors import EngineError
from quiesce.sweeps.engines import slurm_engine
from quiesce.sweeps.engines.slurm_engine import SlurmEngine, SlurmTask
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.sweep import Sweep
from quiesce.sweeps.task_state import read_state
from support.engines import InProcess

submitit = pytest.importorskip("submitit")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SWEEP = Sweep(name="s", recipe="mnist_freeze_w3a3")


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(slurm_engine, "POLL_S", 0.2)


def test_a_run_that_reaches_its_time_limit_is_requeued_and_loses_nothing(
    tiny_flags, tmp_path, monkeypatch
):
    flags = [*tiny_flags, "--float_stage.epochs=1", "--trainer.max_steps=60"]
    runs = plan(SWEEP, [*flags, "--trainer.max_epochs=60", "--checkpoint.every=2"])
    run_sweep(SWEEP, runs, tmp_path / "local", engine=InProcess())

    engine = SlurmEngine(tmp_path / "slurm", {"timeout_min": 5}, submitit.LocalExecutor)
    limiting = threading.Thread(target=limit, args=(tmp_path / "slurm", runs[0].name))
    limiting.start()
    outcome = run_sweep(SWEEP, runs, tmp_path / "slurm", engine=engine)
    limiting.join()
    assert (outcome.finished, outcome.failed) == (1, {})
    name = runs[0].name
    log = (tmp_path / "slurm" / "logs" / f"{name}.log").read_text()
    assert "resuming from" in log
    assert _numbers(tmp_path / "slurm" / name) == _numbers(tmp_path / "local" / name)


def limit(folder, name):
    """Send the signal of the time limit to the job of a run, once the run has a checkpoint."""
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        if (folder / name / "checkpoints" / "last.ckpt").exists():
            os.kill(read_state(folder / "logs" / f"{name}.json").pid, signal.SIGUSR2)
            return
        time.sleep(0.02)


def _numbers(run):
    summary = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in summary.items() if "second" not in name}


def test_a_job_whose_float_network_failed_does_not_start(tmp_path):
    task = slurm_engine.Task(
        name="a",
        recipe=tmp_path / "r.yaml",
        folder=tmp_path / "a",
        log=tmp_path / "a.log",
        needs="float",
        weights=tmp_path / "gone.safetensors",
    )
    assert SlurmTask()(task) == "float failed"
    assert SlurmTask().checkpoint(task).args == (task,)


def test_what_sbatch_gets(tmp_path, monkeypatch):
    """The script of an array: its fields, its size, and what it waits for."""
    monkeypatch.setenv("PATH", f"{_commands(tmp_path)}:/usr/bin:/bin")
    engine = SlurmEngine(tmp_path / "sweep", {"partition": "gpu", "time": 30})
    tasks = [_task(tmp_path, "float"), *(_task(tmp_path, n, "float") for n in ("a", "b"))]
    monkeypatch.setattr(engine, "_wait", lambda *_: None)
    engine.run(tasks, lambda *_: None)
    first, second = (tmp_path / "asked").read_text().split("#!/bin/bash")[1:]
    assert "--partition=gpu" in first
    assert "--time=30" in first
    assert "--array" not in first
    assert "--array=0-1%2" in second
    assert "--dependency=afterany:7" in second
    # called again while they are in the queue: nothing is submitted twice
    monkeypatch.setattr(submitit.SlurmJob, "done", lambda self, force_check=False: False)
    again = SlurmEngine(tmp_path / "sweep", {"partition": "gpu", "time": 30})
    monkeypatch.setattr(again, "_wait", lambda *_: None)
    again.run(tasks, lambda *_: None)
    assert (tmp_path / "asked").read_text().count("#!/bin/bash") == 2


def _task(tmp_path, name, needs=None):
    return slurm_engine.Task(
        name=name,
        recipe=tmp_path / "r.yaml",
        folder=tmp_path / name,
        log=tmp_path / "logs" / f"{name}.log",
        needs=needs,
    )


def _commands(tmp_path):
    """A folder with srun, and an sbatch that keeps the scripts and gives the numbers 7, 8 ..."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text("#!/bin/sh\n")
    asked = tmp_path / "asked"
    (folder / "sbatch").write_text(
        f'#!/bin/sh\ncat "$1" >> {asked}\n'
        f"echo Submitted batch job $((6 + $(grep -c bin/bash {asked})))\n"
    )
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize("fields", [{"partitoin": "gpu"}])
def test_an_unknown_field_is_refused(fields, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{_commands(tmp_path)}:/usr/bin:/bin")
    with pytest.raises(EngineError, match="partitoin"):
        SlurmEngine(tmp_path / "sweep", fields).run([], print)
    assert not (tmp_path / "sweep").exists()


def test_a_machine_without_slurm_is_refused(tmp_path):
    with pytest.raises(EngineError, match="srun"):
        SlurmEngine(tmp_path / "sweep", {}).run([], print)


def test_resources_that_no_node_has_are_refused_by_sbatch(tiny_flags, tmp_path, monkeypatch):
    folder = _commands(tmp_path)
    (folder / "sbatch").write_text("#!/bin/sh\necho 'no such node configuration' >&2; exit 1\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    engine = SlurmEngine(tmp_path / "sweep", {"gpus_per_node": 1000})
    with pytest.raises(EngineError, match="no such node configuration") as refused:
        run_sweep(SWEEP, plan(SWEEP, tiny_flags), tmp_path / "sweep", engine=engine)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "sweep").exists()


def test_tries_that_follow_from_results_are_refused(tmp_path):
    with pytest.raises(EngineError, match="--storage"):
        SlurmEngine(tmp_path / "study", {}).run([], print, lambda free: None)
