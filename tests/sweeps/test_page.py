"""The commands of docs/how-to/compare.md run, with runs that take a moment."""

import re
import shlex
from pathlib import Path

import fsspec
import pytest

from quiesce.cli import main
from quiesce.sweeps import processes
from support.quick_worker import QUICK

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "compare.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for line in PAGE.splitlines()
    if line.startswith("    quiesce ")
]
ELSEWHERE = [command for command in COMMANDS if {"--on", "--data.folder"} & set(command)]


@pytest.fixture(autouse=True)
def _at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "WORKER", QUICK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def command_with(*words):
    (found,) = [each for each in COMMANDS if set(words) <= set(each)]
    return found


def test_a_grid_is_trained_and_compared(capsys):
    assert main([*command_with("mnist_dampen_w3a3"), "--jobs=2"]) == 0
    assert "15 of 15 runs are finished" in capsys.readouterr().out
    assert main(command_with("runs/mnist_dampen_w3a3-sweep")) == 0
    assert "end=0.003" in capsys.readouterr().out


def test_the_sweep_in_a_file(tmp_path, capsys):
    (tree,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(tree)
    assert main(command_with("mine.yaml")) == 0
    assert "18 of 18 runs are finished" in capsys.readouterr().out


def test_runs_are_compared_and_the_tables_written(tmp_path):
    (tmp_path / "both.yaml").write_text(
        "{recipe: mnist_freeze_w3a3, seeds: 2, variants: {a: {}, b: {cure.max_bits: 3}}}"
    )
    assert main(["sweep", "both.yaml", "-o", "runs"]) == 0
    assert main(command_with("--baseline")) == 0
    assert "post_bn" in (tmp_path / "a.csv").read_text()
    assert (tmp_path / "a.md").exists()


@pytest.mark.parametrize("command", ELSEWHERE, ids=" ".join)
def test_the_other_commands_are_understood(command, capsys):
    assert main([*command, "--dry-run"]) == 0
    assert "seed0" in capsys.readouterr().out


def test_the_sweep_at_a_url_and_its_status(capsys):
    def in_memory(words):
        return [word.replace("s3://", "memory://") for word in words]

    command = command_with("auto")
    command = [word for word in in_memory(command) if word not in ("--on", "auto")]
    try:
        assert main([*command, "--seeds=2"]) == 0
        assert main(in_memory(command_with("--status"))) == 0
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)
    assert "6 done" in capsys.readouterr().out
