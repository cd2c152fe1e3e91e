"""`quiesce compare`: what it prints and writes, and the bad input of it."""

import csv
import json

import pytest

from quiesce.cli import main
from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run
from support.messages import tells


@pytest.fixture(scope="module")
def runs(tiny_flags, tmp_path_factory):
    """A folder of four finished runs: two recipes, two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("lsq", "freeze"):
        for seed in (0, 1):
            place = f"--run={folder / f'{kind}{seed}'}"
            run(read_recipe(f"mnist_{kind}_w3a3", [*tiny_flags, f"--seed={seed}", place]))
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    """Copies one run of them into the test's own folder."""

    def copy(name="lsq0", to="run", *, leave_out=()):
        place = tmp_path / to
        place.mkdir()
        for file in ("recipe.yaml", "summary.json", "metrics.csv"):
            if file not in leave_out:
                (place / file).write_bytes((runs / name / file).read_bytes())
        return place

    return copy


def test_recipes_stand_side_by_side(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["compare", str(runs), "--baseline", "mnist_lsq_w3a3"]) == 0
    out = capsys.readouterr().out
    assert "minus mnist_lsq_w3a3" in out
    assert "paired, 2 seeds" in out
    for kind in ("lsq", "freeze"):
        tops = [
            json.loads((runs / f"{kind}{seed}" / "summary.json").read_text())["top1_percent"]
            for seed in (0, 1)
        ]
        assert f"{sum(top['trained'] for top in tops) / 2:.2f}" in out


def test_the_files_hold_the_same(runs, tmp_path, capsys):
    files = [f"--csv={tmp_path / 'a.csv'}", f"--markdown={tmp_path / 'a.md'}"]
    assert main(["compare", *map(str, sorted(runs.iterdir())), *files]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows} == {"mnist_freeze_w3a3", "mnist_lsq_w3a3"}
    assert {row["n"] for row in rows} == {"2"}
    assert "| mnist_lsq_w3a3 | 2 |" in (tmp_path / "a.md").read_text()


def test_a_run_cut_off_is_left_out_and_told(runs, copied, capsys):
    cut = copied(leave_out=("summary.json",))
    assert main(["compare", str(runs), str(cut)]) == 0
    assert tells(capsys.readouterr().out, cut, "step 2")


def test_only_runs_cut_off(refused, copied):
    cut = copied(leave_out=("summary.json",))
    assert tells(refused("compare", cut), cut, "step 2")


def test_a_folder_that_is_no_run(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert tells(refused("compare", "empty"), "empty", "recipe.yaml")
    assert tells(refused("compare", "nowhere"), "nowhere", "no such folder")


@pytest.mark.parametrize("file", ["summary.json", "recipe.yaml"])
def test_a_newer_version(file, refused, copied):
    run = copied()
    (run / file).write_text('{"version": 2}')
    told = refused("compare", run)
    assert tells(told, file, "version 2", "1")


def test_different_data(refused, copied):
    one, other = copied(), copied("freeze0", "other")
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("name: made_up", "name: mnist5k"))
    told = refused("compare", one, other)
    assert tells(told, "data.name", "made_up", "mnist5k")
    assert main(["compare", str(one), str(other), "--mixed-data"]) == 0


def test_an_unknown_baseline(refused, runs):
    told = refused("compare", runs, "--baseline", "mnist_lsq_w3a4")
    assert tells(told, "'mnist_lsq_w3a4'", "'mnist_lsq_w3a3'")


def test_a_file_that_can_not_be_written(runs, tmp_path, capsys):
    assert main(["compare", str(runs), "--csv", str(tmp_path / "nowhere" / "a.csv")]) == 2
    err = capsys.readouterr().err
    assert "nowhere" in err
    assert err.count("\n") == 1


def test_json_holds_the_numbers_of_the_csv(runs, tmp_path, capsys):
    argv = ["compare", str(runs), "--baseline", "mnist_lsq_w3a3", f"--csv={tmp_path / 'a.csv'}"]
    assert main([*argv, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["baseline"] == "mnist_lsq_w3a3"
    measured = {each["recipe"]: each["measures"] for each in tree["recipes"]}
    with (tmp_path / "a.csv").open() as file:
        for row in csv.DictReader(file):
            found = measured[row["recipe"]][row["measure"]]
            assert found["spread"]["mean"] == float(row["mean"])
            low = (found["difference"] or {}).get("low")
            assert low == (float(row["low"]) if row["low"] else None)
