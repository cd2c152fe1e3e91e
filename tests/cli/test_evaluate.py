"""`quiesce evaluate RUN`."""

import json

import pytest

from quiesce.cli import main
from support.tiny import FOUR_BITS


@pytest.fixture(scope="session")
def run_folder(trained):
    return trained(*FOUR_BITS)


def test_it_prints_the_accuracy_of_the_summary(run_folder, capsys):
    assert main(["evaluate", str(run_folder)]) == 0
    top1 = json.loads((run_folder / "summary.json").read_text())["top1_percent"]
    assert capsys.readouterr().out == f"top-1 {top1['reestimated']:.2f} %\n"


def test_flags_override_the_recipe(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--data.test_images", "4"]) == 0
    assert capsys.readouterr().out.startswith("top-1 ")


def test_it_changes_nothing_in_the_folder(run_folder):
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    assert main(["evaluate", str(run_folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before


@pytest.mark.parametrize("missing", ["recipe.yaml", "network.safetensors"])
def test_a_folder_that_is_no_finished_run_is_refused(missing, tmp_path, capsys):
    for name in {"recipe.yaml", "network.safetensors"} - {missing}:
        (tmp_path / name).touch()
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"it has no {missing}" in capsys.readouterr().err


def test_another_scheme_does_not_fit_the_network(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--scheme.weight_bits", "5"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "prepare it with the scheme of the checkpoint" in err


def test_a_run_must_be_named(capsys):
    assert main(["evaluate"]) == 2
    assert "the following arguments are required: RUN" in capsys.readouterr().err
