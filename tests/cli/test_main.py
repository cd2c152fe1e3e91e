"""The command itself: help, version, names of commands, exit codes."""

import os
import subprocess
import sys

import pytest

import quiesce.cli
from quiesce.cli import BAD_INPUT, COMMANDS, INTERRUPTED, main


def quiesce_process(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "quiesce.cli", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("quiesce 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"quiesce {command}" in capsys.readouterr().out


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == BAD_INPUT
    assert capsys.readouterr().err == "quiesce: unknown command 'trian'; did you mean 'train'?\n"
    assert main(["zzz"]) == BAD_INPUT
    assert f"commands: {', '.join(COMMANDS)}" in capsys.readouterr().err


def test_the_installed_command_answers():
    done = quiesce_process("recipes")
    assert done.returncode == 0
    assert "mnist_freeze_w3a3" in done.stdout
    assert done.stderr == ""


def test_a_process_with_bad_input_ends_with_2_and_one_line():
    done = quiesce_process("train", "mnist_frez_w3a3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "quiesce: unknown recipe 'mnist_frez_w3a3'; did you mean 'mnist_freeze_w3a3'?"
    ]


def test_ctrl_c_is_130_and_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quiesce.cli, "_run", interrupted)
    assert main(["train"]) == INTERRUPTED
    assert capsys.readouterr().err == "quiesce: stopped\n"


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "runs/a/metrics.csv")

    monkeypatch.setattr(quiesce.cli, "_run", full)
    assert main(["train"]) == BAD_INPUT
    assert capsys.readouterr().err == "quiesce: runs/a/metrics.csv: No space left on device\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def defect(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(quiesce.cli, "_run", defect)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


@pytest.mark.parametrize(("missing", "command"), [("lightning", "evaluate"), ("yaml", "train")])
def test_a_missing_extra_is_named_with_its_install(missing, command):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from quiesce.cli import main
sys.exit(main([{command!r}, "x"]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == BAD_INPUT
    assert ran.stderr.endswith("needs an extra: pip install 'quiesce[train]'\n")
    assert len(ran.stderr.splitlines()) == 1
