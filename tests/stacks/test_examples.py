"""The programs of examples/ for other toolkits run, and no trained code changes in them."""

import pytest

from support.examples import run_example, run_notebook
from support.stacks import is_installed

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("toolkit", ["brevitas", "torchao"])
def test_the_example_of_a_toolkit_runs(toolkit, tmp_path, monkeypatch, capsys) -> None:
    if not is_installed(toolkit):
        pytest.skip(f"{toolkit} is not installed")
    given = run_example(f"attach_{toolkit}", tmp_path, monkeypatch)
    assert given["control"].step == 320
    assert given["tracker"].summary().frozen > 0
    assert given["audit"].changed == 0
    assert "\n0 of 2560 codes changed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_about_brevitas_runs(tmp_path, monkeypatch) -> None:
    if not is_installed("brevitas"):
        pytest.skip("brevitas is not installed")
    printed = run_notebook("attach_to_brevitas", tmp_path, monkeypatch)
    assert "\n0 of 2560 codes changed" in printed
