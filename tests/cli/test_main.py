"""The command itself: help, version, names of commands, exit codes."""

import json
import os
import subprocess
import sys

import pytest

import quiesce.cli
from quiesce.cli import BAD_INPUT, COMMANDS, INTERRUPTED, main
from quiesce.cli.completion import INSTALL
from quiesce.cli.json_output import print_json


def quiesce_process(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "quiesce", *argv],
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


def test_help_of_a_command_is_its_own_help(capsys):
    assert main(["help", "recipes"]) == 0
    text = capsys.readouterr().out
    assert main(["recipes", "--help"]) == 0
    assert capsys.readouterr().out == text
    assert text.startswith("usage: quiesce recipes")


def test_listing_recipes_imports_no_torch():
    code = "import sys; from quiesce.cli import main; main(['recipes'])"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_numbers_that_are_not_finite_are_null_in_json(capsys):
    print_json({"loss": [float("nan"), {"top1": float("inf")}, 1.5]})
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "loss": [None, {"top1": None}, 1.5],
    }


@pytest.mark.parametrize("shell", INSTALL)
def test_completion_knows_commands_flags_and_recipes(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in (*COMMANDS, "mnist_freeze_w3a3", "mixed-data"))


def test_bash_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = (
        capsys.readouterr().out
        + """
complete_words=$(complete -p quiesce | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(quiesce train mnist_freeze_w3); COMP_CWORD=2
$complete_words quiesce mnist_freeze_w3 train
echo "${COMPREPLY[*]}"
"""
    )
    (tmp_path / "try.sh").write_text(script)
    ran = subprocess.run(["bash", tmp_path / "try.sh"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["mnist_freeze_w3a3"]


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
