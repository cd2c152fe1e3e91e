"""`quiesce train`: flags, --print_config, and what it prints."""

import json
import subprocess
import sys

import pytest
import yaml

from quiesce.cli import main
from quiesce.recipes.reading import read_recipe

QUICK = "mnist_dampen_w3a3"


@pytest.mark.parametrize("argv", [["--help"], [QUICK, "--help"]])
def test_help_shows_every_field_with_its_text(argv, capsys):
    assert main(["train", *argv]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "quiesce train RECIPE" in out
    assert "--cure.threshold.begin BEGIN Share of the training before the change starts" in out


def test_the_resolved_recipe_is_printed_and_nothing_is_made(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["train", QUICK, "--print_config", "--seed", "3", "--scheme.weight_bits=2"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    path = tmp_path / "printed.yaml"
    path.write_text(out)
    assert read_recipe(str(path)) == read_recipe(QUICK, ["--seed=3", "--scheme.weight_bits=2"])
    assert yaml.safe_load(out)["scheme"]["weight_bits"] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["printed.yaml"]


def test_a_run_ends_with_its_table_and_folder(tiny_run, tmp_path, capsys):
    assert main(["train", QUICK, *tiny_run]) == 0
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert f"{summary['top1_percent']['reestimated']:.1f}" in out
    assert QUICK in out
    assert "rounded, untrained" in out
    assert str(tmp_path / "run") in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "quiesce train RECIPE"),
        ([QUICK, "--scheme.weight_bit", "2"], "unknown field `scheme.weight_bit`"),
        ([QUICK, "--resume", "runs/one"], "--resume RUN"),
        ([QUICK, "--resume=runs/one"], "--resume RUN"),
        (["mobilenetv3_small_050"], "--model.name mobilenetv3_small_050"),
        (["begun"], "begun is the folder of a run; quiesce train --resume begun"),
    ],
)
def test_words_that_are_not_meant_so(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("version: 1\n")
    assert main(["train", *argv]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1


def test_the_recipe_comes_first(capsys):
    assert main(["train", "--seed", "3", QUICK]) == 2
    assert "the recipe comes first: quiesce train RECIPE" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_one_network(tiny_run, tmp_path):
    flags = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
    flags += ["--recording.batchnorm_every=1"]
    argv = [sys.executable, "-m", "quiesce", "train", QUICK, *tiny_run, *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rounded, untrained") == 1  # one of them tells
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    rows = {"layers.csv": 2 * 21, "batchnorm.csv": 2 * 20, "batchnorm_loss.csv": 2}
    for name, count in rows.items():  # of two steps, written down by one of them
        assert len((tmp_path / "run" / name).read_text().splitlines()) == 1 + count
    assert main(["evaluate", str(tmp_path / "run")]) == 0
