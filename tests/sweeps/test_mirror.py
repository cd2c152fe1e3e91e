"""Sweeps at URLs: a copy on each machine, uploads, and what another machine finds."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import fsspec
import pytest

from quiesce.cli import main
from quiesce.errors import QuiesceError
from quiesce.sweeps import mirrored_task, processes
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.mirrored_sweep import fetch_copy
from quiesce.sweeps.plan import plan
from quiesce.sweeps.processes import run_process
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.status import read_status
from quiesce.sweeps.sweep import Sweep
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import write_state
from support.engines import InProcess
from support.quick_worker import QUICK

SWEEP = Sweep(name="s", recipe="mnist_freeze_w3a3", grid={"cure.threshold.end": [0.01, 0.02]})
NAMES = [f"mnist_freeze_w3a3-end={end}-seed0" for end in (0.01, 0.02)]


@pytest.fixture(params=["memory", pytest.param("file", marks=pytest.mark.slow)])
def url(request, tmp_path):
    made = "memory://study" if request.param == "memory" else f"file://{tmp_path / 'study'}"
    yield made
    files = fsspec.filesystem("memory")
    if files.exists("/study"):
        files.rm("/study", recursive=True)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Goes to another machine: one with another home."""

    def go(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("first")
    return go


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "WORKER", QUICK)
    monkeypatch.setattr(processes, "LOOK_S", 0.02)


def sweep(url, *flags, jobs=1, **options):
    runs = plan(SWEEP, ["--trainer.max_epochs=1", *flags])
    mirror = Mirror(url)
    engine = LocalEngine(jobs)
    outcome = run_sweep(SWEEP, runs, mirror.local, mirror=mirror, engine=engine, **options)
    return outcome, mirror


def test_a_file_appears_only_when_all_of_it_is_there_and_only_if_it_has_changed(url, monkeypatch):
    mirror = Mirror(url)
    mirror.check()
    path = mirror.local / "a" / "b.txt"
    path.parent.mkdir()
    path.write_text("one")
    moved = []
    files = type(mirror._files)
    real = files.mv
    monkeypatch.setattr(files, "mv", lambda self, *paths: moved.append(paths) or real(self, *paths))
    mirror.put([path, path.with_name("gone")])
    mirror.put([path])
    [(part, target)] = moved
    assert part.startswith(target)
    assert mirror.reads("a/b.txt") == b"one"
    assert mirror.tree("") == ["a/b.txt"]
    assert mirror.files("") == []
    mirror.fetch(["gone"])
    assert not (mirror.local / "gone").exists()


def test_another_machine_finds_what_is_finished_and_trains_the_rest(quick, url, machine):
    outcome, first = sweep(url, at_most=1)
    assert (outcome.finished, outcome.total) == (1, 2)
    summary = first.reads(f"{NAMES[0]}/summary.json")
    machine("second")
    status = read_status(fetch_copy(url))
    assert [run.state for run in status.runs] == ["done", "waiting"]
    assert status.runs[0].epoch == 4
    outcome, second = sweep(url)
    assert (outcome.finished, outcome.failed) == (2, {})
    assert second.local != first.local
    logs = [(second.local / "logs" / f"{name}.log").exists() for name in NAMES]
    assert logs == [False, True]  # the first one was not run again
    assert (second.local / NAMES[0] / "summary.json").read_bytes() == summary
    assert not list(second.local.glob("float/*/*.log"))
    assert read_status(fetch_copy(url)).count("done") == 2


def test_what_only_the_copy_has_is_made_again(quick, url):
    _, mirror = sweep(url)
    mirror.remove(NAMES[0])
    mirror.remove(f"logs/{NAMES[0]}.json")
    (mirror.local / "logs" / f"{NAMES[0]}.json").unlink()
    outcome, _ = sweep(url)
    assert outcome.finished == 2
    assert mirror.reads(f"{NAMES[0]}/summary.json") is not None


def test_a_run_continues_from_the_checkpoint_at_the_url(quick, url, machine):
    """The first machine is lost in the middle of a run."""
    _, mirror = sweep(url)
    folder = mirror.local / NAMES[0]
    whole = (folder / "summary.json").read_bytes()
    lines = ["step,epoch,top1_percent", "0,0,1.5"]
    mirror.remove(NAMES[0])
    (folder / "checkpoints" / "last.ckpt").write_text(json.dumps([2, *lines]))
    mirror.put([folder / "checkpoints" / "last.ckpt"])
    state = mirror.local / "logs" / f"{NAMES[0]}.json"
    write_state(state, "running", began_s=time.time())  # by this process, which is not at work
    mirror.put([state])
    machine("second")
    outcome, second = sweep(url)
    assert outcome.finished == 2
    assert "resuming from epoch 2" in (second.local / "logs" / f"{NAMES[0]}.log").read_text()
    assert (second.local / NAMES[0] / "summary.json").read_bytes() == whole
    assert second.reads(f"{NAMES[0]}/metrics.csv").decode().splitlines()[:2] == lines


def test_a_checkpoint_is_uploaded_while_the_run_goes_on_and_after_all_other_files(
    quick, url, monkeypatch
):
    seen = []
    real = Mirror._write

    def write(self, path, target):
        seen.append(target.rpartition("/")[2])
        real(self, path, target)

    monkeypatch.setattr(Mirror, "_write", write)
    sweep(url, "--trainer.max_epochs=200", at_most=1)
    first = seen.index("last.ckpt")
    assert "summary.json" not in seen[:first]
    assert "metrics.csv" in seen[:first]
    assert seen.count("last.ckpt") > 1
    for i, name in enumerate(seen):
        if name == "last.ckpt":  # what it needs was written just before
            assert "metrics.csv" in seen[:i]


def task_of(mirror, tmp_path):
    return Task(
        name="a",
        recipe=mirror.local / "recipes" / "a.yaml",
        folder=mirror.local / "a",
        log=mirror.local / "logs" / "a.log",
        mirror=mirror.url,
        root=mirror.local,
        directory=tmp_path / "gone",
    )


def test_a_run_that_another_machine_works_on_is_left_to_it(quick, url, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrored_task, "WAIT_S", 0.1)
    monkeypatch.setattr(mirrored_task, "LOOK_S", 0.02)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    mirror = Mirror(url)
    mirror.check()
    task = task_of(mirror, tmp_path)
    task.log.parent.mkdir()
    write_state(task.state, "running", began_s=time.time())
    mirror.put([task.state])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    monkeypatch.setattr(mirrored_task, "WAIT_S", 0.1)
    monkeypatch.setattr(mirrored_task, "LOOK_S", 0.02)
    assert "elsewhere" in run_process(task)


def test_the_paths_of_a_task_are_those_of_the_machine(url, tmp_path):
    mirror = Mirror(url)
    moved = task_of(mirror, tmp_path).at(tmp_path)
    assert moved.folder == tmp_path / "a"
    assert moved.state == tmp_path / "logs" / "a.json"
    assert moved.directory == tmp_path
    assert Task.from_json(moved.to_json()) == moved


def test_other_files_at_the_url_are_refused_and_stay(quick, url):
    mirror = Mirror(url)
    mirror.check()
    (mirror.local / "mine.txt").write_text("mine")
    mirror.put([mirror.local / "mine.txt"])
    with pytest.raises(QuiesceError, match=r"sweep|exists"):
        sweep(url)
    assert mirror.tree("") == ["mine.txt"]


def test_a_sweep_that_cannot_start_leaves_nothing(quick, url):
    class Refusing:
        def run(self, tasks, tell, more=None):
            from quiesce.errors import EngineError

            raise EngineError("no such cluster")

    mirror, runs = Mirror(url), plan(SWEEP)
    with pytest.raises(QuiesceError, match="no such cluster"):
        run_sweep(SWEEP, runs, mirror.local, mirror=mirror, engine=Refusing())
    assert mirror.tree("") == []
    assert not mirror.local.exists()


def test_the_command_takes_a_url(quick, url, machine, capsys):
    command = ["sweep", SWEEP.recipe, "--set=cure.threshold.end=0.01,0.02", f"--output={url}"]
    assert main([*command, "--trainer.max_epochs=1", "--jobs=2"]) == 0
    assert f"2 of 2 runs are finished in {url}" in capsys.readouterr().out
    machine("second")
    assert main(["sweep", "--status", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 2


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s4://bucket/study", "s4"),
        ("oci://bucket/study", "ocifs"),
        ("https://127.0.0.1:1/study", "127.0.0.1:1"),
        ("file:///proc/study", "/proc/study"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", SWEEP.recipe, "-o", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told in err
    assert main(["sweep", "--status", url]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_real_runs_continue_on_another_machine_to_the_same_bits(tiny_flags, tmp_path):
    flags = [*tiny_flags, "--float_stage.epochs=1", "--trainer.max_steps=60"]
    flags += ["--trainer.max_epochs=60", "--checkpoint.every=2"]
    url, name = f"file://{tmp_path / 'study'}", "mnist_freeze_w3a3-seed0"
    command = [*(sys.executable, "-m", "quiesce", "sweep", "mnist_freeze_w3a3"), *flags]
    command += [f"--output={url}"]
    process = subprocess.Popen(
        command, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "first")}
    )
    until_s = time.monotonic() + 200
    while not (tmp_path / "study" / name / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "study" / name / "summary.json").exists()
    shutil.move(tmp_path / "first", tmp_path / "gone")  # and with it all that was not mirrored
    command[1:3] = ["-m", "quiesce"]
    subprocess.run(
        command, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "second")}, check=True
    )
    assert "resuming from" in (tmp_path / "study" / "logs" / f"{name}.log").read_text()
    sweep = Sweep(name="s", recipe="mnist_freeze_w3a3")
    run_sweep(sweep, plan(sweep, flags), tmp_path / "local", engine=InProcess())
    summaries = [
        json.loads((folder / name / "summary.json").read_text())
        for folder in (tmp_path / "study", tmp_path / "local")
    ]
    one, other = [
        {key: value for key, value in each.items() if "second" not in key} for each in summaries
    ]
    assert one == other
