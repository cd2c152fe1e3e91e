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
from quiesce.cli.sweep import SweepProgress
from quiesce.recipes.reading import read_recipe
from quiesce.sweeps.plan import PlannedRun
from quiesce.sweeps.processes import Task
from quiesce.sweeps.sweep import shipped_sweeps

QUICK = "mnist_freeze_w3a3"


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
    assert (again.out, again.err) == (first.out, "")


@pytest.fixture
def progress(monkeypatch):
    """A line for three runs, one of them finished already, and what a terminal has seen of it."""
    monkeypatch.setenv("TERM", "xterm")

    def make(terminal):
        seen = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
        runs = [
            PlannedRun(name=name, variant=None, fields={}, recipe=read_recipe(QUICK))
            for name in "abc"
        ]
        return SweepProgress(runs, 1, seen), seen.file

    return make


def last_line(seen):
    """What the line said when it was last drawn."""
    drawn = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", seen.getvalue())
    return next(text for text in reversed(re.split(r"[\r\n]", drawn)) if "sweep" in text)


def shown(line, seen):
    line._line.refresh()
    return last_line(seen)


def test_the_line_of_a_sweep_counts_runs_and_names_those_at_work(progress):
    line, seen = progress(terminal=True)
    with line:
        assert "1/3" in shown(line, seen)
        line.tell(task("float"), "started", "")
        assert "float" in shown(line, seen)
        line.tell(task("float"), "done", "")  # no run of the sweep: it does not count
        line.tell(task("b"), "started", "")
        line.tell(task("c"), "started", "")
        assert "1/3" in shown(line, seen)
        assert "b, c" in shown(line, seen)
        line.tell(task("b"), "failed", "disk full")
        assert "2/3" in shown(line, seen)
        assert "b, c" not in shown(line, seen)
        line.tell(task("c"), "done", "")
        assert "3/3" in shown(line, seen)
    assert "b: failed: disk full" in seen.getvalue()
    assert "c: done" not in seen.getvalue()  # the line tells it


def test_where_there_is_no_terminal_each_end_is_a_line(progress):
    line, seen = progress(terminal=False)
    with line:
        line.tell(task("b"), "started", "")
        line.tell(task("b"), "done", "")
        line.tell(task("c"), "started", "")
        line.tell(task("c"), "failed", "disk full")
    assert seen.getvalue().splitlines() == ["b: done", "c: failed: disk full"]


def task(name):
    return Task(name=name, command=(), log=Path(name))


def test_a_failed_run_is_told_and_the_exit_code_is_1(tiny_flags, tmp_path, capsys):
    command = ["sweep", QUICK, *tiny_flags, "--set", "model.weights=gone.pt,random"]
    assert main([*command, "-o", str(tmp_path / "sweep")]) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 runs are finished" in out
    last = err.splitlines()[-1]
    assert last.startswith(f"quiesce: {QUICK}-weights=gone.pt-seed0 failed: ")
    assert "gone.pt" in last.partition("failed: ")[2]


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
        [sys.executable, "-m", "quiesce.cli", *long],
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
    lines = capsys.readouterr().out.splitlines()
    for name in shipped_sweeps():
        (line,) = [line for line in lines if line.split(" ")[0] == name]
        assert "bit" in line


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "give a recipe or a sweep"),
        (["mnist_frez_w3a3"], "unknown recipe 'mnist_frez_w3a3'; did you mean"),
        ([QUICK, "--jobs", "0"], "--jobs and --at-most must be 1 or more"),
        ([QUICK, "--jobs", "x"], "argument --jobs: invalid int value"),
        ([QUICK, "--seeds", "0"], "`seeds` must be how many, or a list of seeds, got 0"),
        ([QUICK, "--seeds", "1,1"], "`seeds` must be 0 or more, each once, got [1, 1]"),
        ([QUICK, "--set", "lr"], "--set lr: must be field=value,value..."),
        ([QUICK, "--set", "seed=1,2"], "`seed` can not be set in a sweep: --seeds sweeps it"),
        ([QUICK, "--set", "scheme.wieght_bits=3"], "`scheme.wieght_bits`; did you mean"),
        ([QUICK, "--set", "tracker.momentum=0,2,0.1"], "2 of 3 combinations are refused"),
        ([QUICK, "--tracker.momentm", "2"], "unknown field `tracker.momentm`"),
    ],
)
def test_bad_input(argv, told, refused):
    assert told in refused("sweep", *argv)


@pytest.mark.slow
def test_a_changed_recipe(refused, tmp_path, tiny_flags, capsys):
    command = ["sweep", QUICK, *tiny_flags, "--model.weights=gone.pt", "-o", tmp_path / "sweep"]
    assert main([str(each) for each in command]) == 1  # it fails at once, and its recipe is kept
    capsys.readouterr()
    told = refused(*command, "--tracker.momentum=0.5")
    assert "tracker.momentum was 0.01 and now is 0.5; name another folder" in told
