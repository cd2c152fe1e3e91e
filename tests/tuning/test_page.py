"""The commands and the program of docs/how-to/tune.md run, with runs that take a moment."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from quiesce.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "tune.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for line in PAGE.replace("\\\n", " ").splitlines()
    if line.startswith("    quiesce ") and "mysql" not in line and "/shared/" not in line
]

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _at_home(quick, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_the_commands_run_and_the_first_one_proposes_the_second(tmp_path, capsys):
    tune, sweep, front = COMMANDS
    assert main([*tune, "--tries=2"]) == 0
    out = capsys.readouterr().out
    proposed = shlex.split(out.splitlines()[-1].partition("quiesce ")[2])
    assert [str(tmp_path / sweep[1]) if word == sweep[1] else word for word in sweep] == proposed
    assert main([*proposed, "--jobs=2"]) == 0
    assert "10 of 10 runs are finished" in capsys.readouterr().out
    assert main([*front, "--tries=3", "--seeds=100", "--jobs=2"]) == 0
    assert (tmp_path / "runs" / "sizes" / "pareto.html").exists()


def test_the_program_runs(tmp_path, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(program.replace("tries=30", "tries=2"), {})
    assert "cure.threshold.end" in capsys.readouterr().out
    assert (tmp_path / "runs" / "from-python" / "best.yaml").exists()
