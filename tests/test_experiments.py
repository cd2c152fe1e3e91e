"""What experiments/, docs/results.md and docs/performance.md tell is what the results hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.made_runs import make_sweep

ROOT = Path(__file__).parents[1]
RESULTS = sorted(ROOT.glob("experiments/*/results.json"))


def test_every_table_is_that_of_its_results():
    check = [sys.executable, str(ROOT / "experiments" / "tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_tables_of_performance_are_those_of_the_benchmarks():
    check = [sys.executable, str(ROOT / "benchmarks" / "table.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_group_is_the_mean_of_its_runs(path):
    results = json.loads(path.read_text("utf-8"))
    for name, group in results["groups"].items():
        runs = [run for run in results["runs"] if run["name"] == name]
        assert sorted(run["seed"] for run in runs) == group["seeds"]
        for key in ("pre_bn", "post_bn", "train_loss", "oscillating"):
            mean = sum(run[key] for run in runs) / len(runs)
            assert group[key]["mean"] == pytest.approx(mean)


def test_the_runs_of_a_sweep_are_collected(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01], seeds=3)
    collect = [sys.executable, str(ROOT / "experiments" / "collect.py"), str(sweep)]
    done = subprocess.run(collect, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [run["seed"] for run in results["runs"]] == [0, 1]  # the third has not begun
    for run in results["runs"]:
        folder = sweep / f"made-cure.threshold.end=0.01-seed{run['seed']}"
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
        assert run["pre_bn"] == summary["top1_percent"]["trained"]
        assert run["train_loss"] == summary["train_loss"]
    (group,) = results["groups"].values()
    assert group["seeds"] == [0, 1]
