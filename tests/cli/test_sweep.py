"""`quiesce sweep`: the command around the sweep, and the bad input of it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from quiesce.cli import INTERRUPTED, main
from quiesce.cli.sweep_table import SweepTable
from quiesce.sweeps import processes
from quiesce.sweeps.sweep import shipped_sweeps
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import write_state
from support.engines import InProcess
from support.messages import tells
from support.quick_worker import QUICK as QUICK_WORKER

QUICK = "mnist_freeze_w3a3"


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("quiesce.cli.engines.LocalEngine", InProcess)


@pytest.mark.usefixtures("in_process")
def test_a_grid_is_run_compared_and_not_run_again(tiny_flags, tmp_path, capsys):
    command = ["sweep", QUICK, *tiny_flags, "--set", "cure.max_bits=3,4", "--jobs=2"]
    command += ["--seeds=1", f"--output={tmp_path / 'sweep'}"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "2 of 2 runs are finished" in first.out
    assert "max_bits=3" in first.out
    assert first.err.count(": done\n") == 2
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert ": done" not in again.err


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A table of a sweep of three runs, one of them finished; and what a console has seen of it."""
    monkeypatch.setenv("TERM", "xterm")
    runs = [{"folder": name, "fields": {}, "seed": 0} for name in "abc"]
    (tmp_path / "sweep.json").write_text(json.dumps({"version": 1, "runs": runs}))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    write_state(tmp_path / "logs" / "b.json", "running", began_s=time.time())

    def make(terminal):
        seen = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
        return SweepTable(tmp_path, seen), seen.file

    return make


def test_a_terminal_shows_a_row_for_each_run_and_the_counts(shown):
    line, seen = shown(terminal=True)
    with line:
        line.tell(task("c"), "disk full")
    drawn = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", seen.getvalue())
    assert "c: failed: disk full" in drawn
    rows = {words[0]: words[1] for row in drawn.splitlines() if len(words := row.split()) > 1}
    assert (rows["a"], rows["b"], rows["c"]) == ("done", "running", "waiting")
    assert "1 waiting, 1 running, 1 done, 0 failed" in drawn


def test_a_log_gets_a_line_at_each_end_and_now_and_then(shown, monkeypatch):
    monkeypatch.setattr("quiesce.cli.sweep_table.LOG_S", 0.01)
    line, seen = shown(terminal=False)
    with line:
        line.tell(task("b"), "")
        line.tell(task("c"), "disk full")
        time.sleep(0.3)
    lines = seen.getvalue().splitlines()
    assert {"b: done", "c: failed: disk full"} <= set(lines)
    assert "1 waiting, 1 running, 1 done, 0 failed" in lines


def test_the_status_of_a_sweep(shown, tmp_path, capsys):
    shown(terminal=False)
    assert main(["sweep", "--status", str(tmp_path)]) == 0
    assert "1 running" in capsys.readouterr().out
    assert main(["sweep", "--status", str(tmp_path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["counts"] == {
        "waiting": 1,
        "running": 1,
        "done": 1,
        "failed": 0,
        "lost": 0,
        "pruned": 0,
    }
    assert [run["state"] for run in tree["runs"]] == ["done", "running", "waiting"]


def task(name):
    return Task(name=name, recipe=Path(name), folder=Path(name), log=Path(name))


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_that_goes_on(tiny_flags, tmp_path, capsys):
    folder = tmp_path / "sweep"
    command = ["sweep", QUICK, *tiny_flags, f"--output={folder}", "--set"]
    # so many steps that only Ctrl-C ends the run, as often a log line that tells it has begun
    long = [
        *command,
        "cure.max_bits=4",
        "--trainer.max_steps=100000",
        "--trainer.max_epochs=100000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "quiesce", *long],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    until_s = time.monotonic() + 100
    run = folder / f"{QUICK}-max_bits=4-seed0"
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=100)
    finally:
        process.send_signal(signal.SIGTERM)  # ends the process of its run too
    assert process.returncode == INTERRUPTED
    assert err.splitlines()[-1] == f"quiesce: stopped; the same command continues in {folder}"
    assert not (run / "summary.json").exists()
    listed = json.loads((folder / "sweep.json").read_text())["runs"]
    assert [each["folder"] for each in listed] == [run.name]
    assert main(["compare", str(folder)]) == 2
    assert "cut off" in capsys.readouterr().err


def test_a_dry_run_checks_and_names_the_runs_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "mnist_w3a3", "--seeds", "2,9", "--dry-run"]) == 0
    kinds = ("lsq", "dampening", "freezing")
    names = [f"{kind}-seed{seed}" for seed in (2, 9) for kind in kinds]
    assert capsys.readouterr().out.splitlines() == names
    assert list(tmp_path.iterdir()) == []


def test_every_shipped_sweep_has_a_line_that_tells_what_it_is(capsys):
    assert main(["sweep", "--list"]) == 0
    told = re.split(r"\n(?=\S)", capsys.readouterr().out)  # a long line is indented where it wraps
    for name in shipped_sweeps():
        (text,) = [each for each in told if each.split(" ")[0] == name]
        assert "bit" in text


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "give a recipe or a sweep"),
        (["mnist_frez_w3a3"], "unknown recipe 'mnist_frez_w3a3'; did you mean"),
        ([QUICK, "--jobs", "0"], "--jobs must be 1 or more"),
        ([QUICK, "--at-most", "0"], "--at-most must be 1 or more"),
        ([QUICK, "--jobs", "x"], "argument --jobs: invalid int value"),
        ([QUICK, "--on", "mars"], "--on mars"),
        ([QUICK, "--on", "ray", "--jobs", "2"], "--jobs is for this machine"),
        ([QUICK, "--on", "ray", "--memory", "much"], "--memory must be a size"),
        ([QUICK, "--slurm.time=3"], "--slurm.time needs --on slurm"),
        ([QUICK, "--on", "slurm", "--slurm.time"], "--slurm.time needs a value"),
        (["--status", "gone"], "sweep.json"),
        ([QUICK, "--seeds", "0"], "`seeds` must be a number of seeds, at least 1"),
        ([QUICK, "--seeds", "1,1"], "`seeds` must be 0 or more, without repeats, got [1, 1]"),
        ([QUICK, "--set", "lr"], "--set lr: must be field=value,value..."),
        ([QUICK, "--set", "seed=1,2"], "`seed` cannot be set in a sweep: --seeds sweeps it"),
        ([QUICK, "--set", "scheme.wieght_bits=3"], "`scheme.wieght_bits`; did you mean"),
        ([QUICK, "--set", "tracker.momentum=0,2,0.1"], "2 of 3 combinations are refused"),
        ([QUICK, "--tracker.momentm", "2"], "unknown field `tracker.momentm`"),
    ],
)
def test_bad_input(argv, told, refused):
    assert told in refused("sweep", *argv)


@pytest.mark.usefixtures("in_process")
def test_a_failed_run_is_told_and_its_recipe_is_kept(refused, tmp_path, tiny_flags, capsys):
    command = ["sweep", QUICK, *tiny_flags, "--model.weights=gone.pt", "-o", tmp_path / "sweep"]
    assert main([str(each) for each in command]) == 1
    out, err = capsys.readouterr()
    assert "0 of 1 runs are finished" in out
    assert tells(err.splitlines()[-1], f"{QUICK}-seed0 failed: ", "gone.pt")
    told = refused(*command, "--tracker.momentum=0.5")
    assert tells(told, "tracker.momentum", "0.01", "0.5")


def test_this_machine_needs_no_package_of_a_cluster(tmp_path, monkeypatch, capsys):
    """A whole sweep here, without Ray, submitit and Optuna; the flag that needs one says so."""
    for name in ("ray", "submitit", "optuna", "sqlalchemy", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(processes, "WORKER", QUICK_WORKER)
    monkeypatch.chdir(tmp_path)
    command = ["sweep", QUICK, "--trainer.max_epochs=1"]
    assert main([*command, "-o", "here"]) == 0
    capsys.readouterr()
    for engine in ("ray", "auto", "slurm"):
        assert main([*command, "-o", "there", "--on", engine]) == 2
        extra = "slurm" if engine == "slurm" else "ray"
        assert f"pip install 'quiesce[{extra}]'" in capsys.readouterr().err
        assert not (tmp_path / "there").exists()
