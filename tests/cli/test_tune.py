"""`quiesce tune`: its bad input, each told in one line, and a search with real runs."""

import json
import sys

import pytest

pytest.importorskip("optuna")

from quiesce.cli import main
from quiesce.comparison.finished_runs import find_runs
from support.messages import tells

RECIPE = "mnist_freeze_w3a3"
SEARCH = "--search=cure.threshold.end=log:0.001:0.1"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([RECIPE], ("--search",)),
        (["mnist_frez_w3a3", SEARCH], ("mnist_frez_w3a3", "did you mean")),
        ([RECIPE, "--search=cure.threshold.end"], ("cure.threshold.end",)),
        ([RECIPE, "--search=cure.treshold.end=0:1"], ("cure.treshold.end", "cure.threshold.end")),
        ([RECIPE, "--search=cure.treshold.end=0.1,1"], ("cure.treshold", "did you mean")),
        ([RECIPE, "--search=zzz=0:1"], ("zzz",)),
        ([RECIPE, "--search=cure.kind=0:1"], ("cure.kind", "not a number")),
        ([RECIPE, "--search=trainer.deterministic=0:1"], ("trainer.deterministic", "not a number")),
        ([RECIPE, "--search=cure=0:1"], ("`cure`", "not a number")),
        ([RECIPE, "--search=cure.threshold.end=0.1:0.01"], ("0.1", "0.01", "empty")),
        ([RECIPE, "--search=cure.threshold.end=0.1:0.1"], ("0.1", "empty")),
        ([RECIPE, "--search=cure.strength.end=log:0:1"], ("cure.strength.end", "above 0", "got 0")),
        ([RECIPE, "--search=cure.threshold.end=log:0.1"], ("log:0.1", "LO:HI")),
        ([RECIPE, "--search=cure.threshold.end=0.01"], ("cure.threshold.end=0.01",)),
        ([RECIPE, "--search=cure.threshold.end=0.01,0.01"], ("each once",)),
        ([RECIPE, "--search=cure.threshold.end=0.01:2"], ("threshold.end", "at most 1", "got 2.0")),
        ([RECIPE, "--search=scheme.weight_bits=2.5:4"], ("scheme.weight_bits", "whole")),
        ([RECIPE, "--search=scheme.weight_bits=3,9"], ("weight_bits", "9")),
        ([RECIPE, "--search=cure.kind=freeze,dampen", SEARCH], ("kind=freeze,dampen", "threshold")),
        ([RECIPE, SEARCH, SEARCH], ("cure.threshold.end", "twice")),
        ([RECIPE, "--search=seed=1,2"], ("seed", "--seeds")),
        ([RECIPE, "--search=cure.threshold.end={a"], ("cure.threshold.end", "YAML")),
        ([RECIPE, SEARCH, "--metric=post_bm"], ("post_bm", "did you mean 'post_bn'")),
        ([RECIPE, SEARCH, "--metric=post_bn:up"], ("post_bn:up", ":min or :max")),
        ([RECIPE, SEARCH, "--metric=post_bn", "--metric=post_bn:min"], ("post_bn", "once")),
        ([RECIPE, SEARCH, "--metric=metric"], ("metric", "null")),
        ([RECIPE, SEARCH, "--batchnorm.batches=null"], ("post_bn", "batchnorm.batches")),
        ([RECIPE, SEARCH, "--tries=0"], ("--tries", "got 0")),
        ([RECIPE, SEARCH, "--seeds=1,1"], ("--seeds", "[1, 1]")),
        ([RECIPE, SEARCH, "--seeds=9-x"], ("--seeds", "9-x")),
        ([RECIPE, SEARCH, "--sampler=tpr"], ("--sampler tpr", "'tpe'")),
        ([RECIPE, SEARCH, "--sampler=grid"], ("grid", "cure.threshold.end")),
        ([RECIPE, SEARCH, "--pruner=medan"], ("--pruner medan", "'median'")),
        ([RECIPE, SEARCH, "--pruner=median", "--metric=frozen"], ("--pruner", "frozen:min")),
        (
            [RECIPE, SEARCH, "--pruner=median", "--metric=pre_bn", "--metric=frozen"],
            ("--pruner", "--metric"),
        ),
        ([RECIPE, SEARCH, "--pruner=median", "--trainer.loggers=[]"], ("trainer.loggers", "csv")),
        ([RECIPE, SEARCH, "--jobs=0"], ("--jobs", "got 0")),
        ([RECIPE, SEARCH, "--slurm.time=3"], ("--slurm.time", "--on slurm")),
        ([RECIPE, SEARCH, "--on=slurm"], ("--on slurm", "--storage")),
        ([RECIPE, SEARCH, "--storage=sqlite:////gone/study.db"], ("/gone/study.db", "unable")),
        ([RECIPE, SEARCH, "--storage=journal:/gone/study.log"], ("journal:/gone", "No such file")),
        ([RECIPE, SEARCH, "--storage=oracel://me:secret@host/db"], ("oracel://host/db",)),
        ([RECIPE, SEARCH, "--storage=gone"], ("--storage gone",)),
        ([RECIPE, SEARCH, "--tracker.momentm=2"], ("tracker.momentm",)),
    ],
    ids=lambda each: " ".join(each[1:]) if isinstance(each, list) else "",
)
def test_bad_input(argv, told, refused):
    line = refused("tune", *argv)
    assert tells(line, *told)
    assert "secret" not in line


def test_a_folder_of_something_else(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert "mine" in refused("tune", RECIPE, SEARCH, "-o", "mine")


def test_without_optuna_the_line_says_what_to_install(refused, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'quiesce[tune]'" in refused("tune", RECIPE, SEARCH)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_with_real_runs_and_the_sweep_of_its_best_try(tiny_flags, tmp_path, capsys):
    command = ["tune", RECIPE, "--search=scheme.weight_bits=3,4", "--metric=post_bn", *tiny_flags]
    command += ["--metric=size_bytes", "--sampler=grid", "--seeds=100", "--jobs=2"]  # one seed
    assert main([*command, f"--output={tmp_path / 'study'}"]) == 0
    out = capsys.readouterr().out
    runs = find_runs([tmp_path / "study"]).finished
    assert len(runs) == 2
    summaries = [json.loads((run.folder / "summary.json").read_text()) for run in runs]
    small, large = sorted(summary["size_bytes"] for summary in summaries)
    weights = summaries[0]["oscillation"]["low_bit"]["weights"]
    assert large - small == pytest.approx(weights / 8, abs=1)
    words = out.splitlines()[-1].partition("quiesce ")[2].split()
    words[words.index("0-9")] = "0,"
    assert main([*words, f"--output={tmp_path / 'sweep'}", "--jobs=2"]) == 0
    assert "runs are finished" in capsys.readouterr().out
