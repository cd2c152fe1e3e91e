"""What experiments/, docs/results.md and docs/performance.md tell is what the results hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
