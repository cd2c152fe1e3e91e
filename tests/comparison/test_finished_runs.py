"""From folders to runs: what is found, what is left out, what is refused."""

import json

import pytest

from quiesce.comparison.finished_runs import find_runs
from quiesce.errors import RecipeError


def test_a_run_a_sweep_and_a_folder_of_runs(make_run, tmp_path):
    one = make_run("one")
    inside = [make_run("demo/a"), make_run("demo/b", seed=1)]
    swept = make_run("sweep/a-seed3", seed=3)
    listing = {"version": 1, "baseline": "a", "runs": [{"folder": "a-seed3"}, {"folder": "b"}]}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(listing))
    found = find_runs([one, tmp_path / "demo", tmp_path / "sweep"])
    assert [run.folder for run in found.finished] == [one, *inside, swept]
    assert [(run.name, run.seed) for run in found.finished][-1] == ("lsq", 3)
    assert found.left_out == {tmp_path / "sweep" / "b": "not run yet"}
    assert found.baselines == ["a"]


def test_a_run_named_twice_is_one(make_run, tmp_path):
    run = make_run("all/one")
    assert len(find_runs([run, tmp_path / "all", run / ".." / "one"]).finished) == 1


@pytest.mark.parametrize(
    ("metrics", "told"),
    [(None, "cut off"), ("", "cut off"), ("step,loss\n0,1\n99,\n", "cut off after step 100")],
)
def test_a_run_without_summary_is_left_out_with_how_far_it_came(metrics, told, make_run):
    run = make_run("cut", finished=False)
    if metrics is not None:
        (run / "metrics.csv").write_text(metrics)
    found = find_runs([run])
    assert found.finished == []
    assert found.left_out == {run: told}


def test_a_summary_without_a_recipe_is_refused(make_run):
    run = make_run("run")
    (run / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match=r"it has no recipe\.yaml"):
        find_runs([run])


@pytest.mark.parametrize(
    ("change", "field"),
    [("{}", "version"), ('{"version": 1}', "name"), ("NaN", "train_loss"), ("1e200", "train_loss")],
)
def test_a_damaged_summary_is_refused(change, field, make_run):
    run = make_run("run")
    path = run / "summary.json"
    whole = path.read_text()
    assert '"train_loss": 0.5' in whole
    path.write_text(change if "{" in change else whole.replace("0.5", change))
    with pytest.raises(RecipeError, match=rf"summary\.json is damaged: .*{field}"):
        find_runs([run])


@pytest.mark.parametrize(
    "runs", ["{}", '{"version": 1, "runs": [{}]}', '{"version": 1, "runs": 3}']
)
def test_a_damaged_sweep_is_refused(runs, tmp_path):
    (tmp_path / "sweep.json").write_text(runs)
    with pytest.raises(RecipeError, match=r"sweep\.json is damaged"):
        find_runs([tmp_path])
