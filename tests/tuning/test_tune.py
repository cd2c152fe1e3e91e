"""Studies of real Optuna: what they find, keep, refuse, and how they go on after a kill."""

import time

import pytest

pytest.importorskip("optuna")

import numpy as np
import optuna

import quiesce
from quiesce.cli import main
from quiesce.errors import RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.sweeps.plan import plan
from quiesce.sweeps.status import read_status
from quiesce.sweeps.sweep import read_sweep
from support.messages import telling
from support.quick_worker import SLOW
from tuning.conftest import RECIPE, SEARCH, started_runs

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def tune(folder, search=SEARCH, **options):
    options = {"tries": 4, "seeds": (100, 101), "flags": ["--trainer.max_epochs=1"], **options}
    return quiesce.tune(RECIPE, search, folder=folder, **options)


def numbers(study):
    """What a study found: state, fields and values of each try."""
    return [(trial.state.name, trial.params, trial.values) for trial in study.trials]


def loaded(folder, name=f"{RECIPE}-tune"):
    """The study as Optuna, and so its dashboard, opens it."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}")


def test_a_study_opens_in_optuna_and_its_best_try_is_a_recipe(quick, tmp_path):
    told = []
    study = tune(tmp_path / "s", jobs=2, tell=told.append)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert numbers(loaded(tmp_path / "s")) == numbers(study)
    best = study.best_trial
    by_seed = best.user_attrs["post_bn by seed"]
    assert by_seed["100"] - by_seed["101"] == pytest.approx(0.01)
    assert best.value == pytest.approx(sum(by_seed.values()) / 2)
    assert len(told) == 4
    recipe = read_recipe(str(tmp_path / "s" / "best.yaml"))
    assert recipe.name == f"{RECIPE}-best"
    assert recipe.cure.threshold.end == best.params["cure.threshold.end"]
    assert (recipe.seed, recipe.run, recipe.trainer.max_epochs) == (0, None, 1)


@pytest.mark.slow
def test_the_search_finds_the_maximum(quick, tmp_path):
    study = tune(tmp_path / "s", tries=25, seeds=(100,), jobs=2)
    assert study.best_value == pytest.approx(90, abs=0.1)
    assert study.best_params["cure.threshold.end"] == pytest.approx(0.01, rel=1)


def test_a_finished_study_is_not_made_again_and_can_get_more_tries(quick, tmp_path):
    first = numbers(tune(tmp_path / "s", tries=2))
    assert numbers(tune(tmp_path / "s", tries=2)) == first
    assert len(started_runs(tmp_path / "s")) == 4
    assert numbers(tune(tmp_path / "s", tries=3))[:2] == first
    assert len(started_runs(tmp_path / "s")) == 6


def test_the_status_of_a_study_is_that_of_a_sweep(quick, tmp_path):
    tune(tmp_path / "s", tries=11, seeds=(100,))
    status = read_status(tmp_path / "s")
    assert [run.name for run in status.runs] == [f"try-{i}-seed100" for i in range(11)]
    assert status.count("done") == 11


def argv(folder, tries, *more):
    search = [f"--search={field}={values}" for field, values in SEARCH.items()]
    return [
        *("tune", RECIPE, *search, f"--tries={tries}", "--seeds=100,101", f"--output={folder}"),
        *("--trainer.max_epochs=40", *more),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4])
def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(at, quick, command, tmp_path):
    """No try is lost or doubled, and each has the fields and values of an undisturbed study."""
    folder, flags = tmp_path / "killed", ["--trainer.max_epochs=40"]
    process = command(*argv(folder, 4))
    until_s = time.monotonic() + 100
    while not (tmp_path / "started").exists() or len(started_runs(folder)) < at:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert "RUNNING" in {trial.state.name for trial in loaded(folder).trials}
    ended = tune(folder, flags=flags)
    assert {trial.state.name for trial in ended.trials} == {"COMPLETE"}
    assert numbers(ended) == numbers(tune(tmp_path / "undisturbed", flags=flags))
    runs = started_runs(folder)
    assert {name for name in runs if runs.count(name) > 1} <= {runs[at - 1]}  # it was cut off


@pytest.mark.slow
def test_two_workers_share_a_folder_and_its_study(quick, command, tmp_path):
    other = command(*argv(tmp_path / "s", 12))
    while not (tmp_path / "started").exists():
        assert other.poll() is None, other.communicate()
        time.sleep(0.005)
    told = []
    study = tune(tmp_path / "s", tries=12, flags=["--trainer.max_epochs=40"], tell=told.append)
    assert other.wait(100) == 0, other.communicate()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 12
    runs = started_runs(tmp_path / "s")
    assert len(runs) == len(set(runs)) == 24
    assert len({trial.params["cure.threshold.end"] for trial in study.trials}) == 12
    by_the_other = other.communicate()[1].count(": post_bn")
    assert len(told) + by_the_other == 12
    assert min(len(told), by_the_other) > 0


@pytest.mark.slow
def test_two_workers_with_folders_of_their_own_share_a_journal(quick, command, tmp_path):
    url = f"journal:{tmp_path / 'journal.log'}"
    other = command(*argv(tmp_path / "a", 12, f"--storage={url}"))
    while not (tmp_path / "started").exists():
        assert other.poll() is None, other.communicate()
        time.sleep(0.005)
    flags = ["--trainer.max_epochs=40"]
    tune(tmp_path / "b", tries=12, storage=url, flags=flags)
    assert other.wait(100) == 0, other.communicate()
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    study = optuna.load_study(
        study_name=f"{RECIPE}-tune", storage=optuna.storages.JournalStorage(backend)
    )
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert len(study.trials) in (12, 13)  # both may have begun one when one was left
    runs = [*started_runs(tmp_path / "a"), *started_runs(tmp_path / "b")]
    assert len(runs) == len(set(runs)) == 2 * len(study.trials)
    assert not (tmp_path / "a" / "study.db").exists()


def test_a_try_of_another_folder_is_left_alone(quick, tmp_path):
    """Its worker may be on another machine."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    tune(tmp_path / "a", storage=url, tries=1)
    study = optuna.load_study(study_name=f"{RECIPE}-tune", storage=url)
    study.add_trial(
        optuna.trial.FrozenTrial(
            **dict.fromkeys(("value", "datetime_complete")),
            **{name: {} for name in ("params", "distributions", "system_attrs")},
            number=-1,
            trial_id=-1,
            state=optuna.trial.TrialState.RUNNING,
            datetime_start=study.trials[0].datetime_start,
            user_attrs={"quiesce_folder": "elsewhere"},
            intermediate_values={},
        )
    )
    ended = tune(tmp_path / "a", storage=url, tries=3)
    assert [t.state.name for t in ended.trials] == ["COMPLETE", "RUNNING", "COMPLETE"]


@pytest.mark.parametrize("pruner", ["median", pytest.param("halving", marks=pytest.mark.slow)])
def test_a_bad_try_is_pruned_and_its_other_seeds_do_not_start(pruner, quick, tmp_path):
    ends, order = [0.01, 0.011, 0.012, 0.013, 0.014, *SLOW], list(range(7))
    np.random.RandomState(0).shuffle(order)  # as the grid does
    search = {"cure.threshold.end": [end for _, end in sorted(zip(order, ends, strict=True))]}
    study = tune(tmp_path / "s", search, tries=7, pruner=pruner, sampler="grid")
    assert [trial.params["cure.threshold.end"] for trial in study.trials] == ends
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert pruned
    assert done
    best = max(trial.value for trial in done)
    for trial in pruned:
        assert trial.value < best
        assert len(trial.intermediate_values) < 4
        runs = [name for name in started_runs(tmp_path / "s") if f"try-{trial.number}-" in name]
        assert runs == [f"try-{trial.number}-seed100"]
    assert {trial.number for trial in pruned} >= {5, 6}
    states = {run.name: run.state for run in read_status(tmp_path / "s").runs}
    assert [states[f"try-{number}-seed100"] for number in (5, 6)] == ["pruned"] * 2


def test_several_metrics_give_a_front_as_a_sweep_and_a_picture(quick, tmp_path):
    search = {**SEARCH, "scheme.weight_bits": [2, 3, 4]}
    metrics = ("post_bn", "size_bytes")
    study = tune(tmp_path / "s", search, metrics=metrics, tries=12, seeds=(100,), jobs=2)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    front = study.best_trials
    for trial in front:  # none is beaten in both
        better = [t for t in study.trials if t.values[0] > trial.values[0]]
        assert all(t.values[1] > trial.values[1] for t in better)
    sweep = read_sweep(tmp_path / "s" / "best.yaml")
    assert set(sweep.variants) == {f"try-{trial.number}" for trial in front}
    for run in plan(sweep):
        trial = study.trials[int(run.variant.removeprefix("try-"))]
        assert run.recipe.scheme.weight_bits == trial.params["scheme.weight_bits"]
        assert run.recipe.cure.threshold.end == trial.params["cure.threshold.end"]
    page = (tmp_path / "s" / "pareto.html").read_text()
    assert "plotly" in page
    assert "size_bytes" in page


def test_choices_may_be_any_value(quick, tmp_path):
    ramps = [{"start": 0.1, "end": 0.02}, {"start": 0.05, "end": 0.01, "schedule": "linear"}]
    study = tune(tmp_path / "s", {"cure.threshold": ramps}, tries=2, sampler="grid")
    assert len({trial.params["cure.threshold"] for trial in study.trials}) == 2
    best = read_recipe(str(tmp_path / "s" / "best.yaml")).cure.threshold
    assert (best.start, best.end, best.schedule) == (0.05, 0.01, "linear")
    assert numbers(loaded(tmp_path / "s")) == numbers(study)


def test_a_grid_makes_each_point_once_and_ends(quick, tmp_path):
    search = {"cure.threshold.end": [0.1, 0.01], "scheme.weight_bits": "int:2:4"}
    study = tune(tmp_path / "s", search, tries=100, sampler="grid", seeds=(100,), jobs=2)
    points = {tuple(trial.params.values()) for trial in study.trials}
    assert len(study.trials) == len(points) == 6


@pytest.mark.parametrize(
    "sampler",
    ["gp", *(pytest.param(x, marks=pytest.mark.slow) for x in ("random", "qmc", "nsgaii"))],
)
@pytest.mark.filterwarnings("ignore")
def test_every_sampler_makes_tries(sampler, quick, tmp_path):
    study = tune(tmp_path / "s", tries=3, sampler=sampler, seeds=(100,))
    assert len({trial.params["cure.threshold.end"] for trial in study.trials}) == 3


def test_a_failed_try_stops_no_other(quick, tmp_path):
    search = {"tracker.momentum": [0.6, 0.1, 0.2]}
    study = tune(tmp_path / "s", search, tries=3, sampler="grid", jobs=2)
    states = {t.params["tracker.momentum"]: t.state.name for t in study.trials}
    assert states == {0.6: "FAIL", 0.1: "COMPLETE", 0.2: "COMPLETE"}
    (failed,) = [t for t in study.trials if t.state.name == "FAIL"]
    assert "the momentum is too large" in failed.user_attrs["why"]


def test_a_study_stops_when_the_first_tries_all_fail(quick, tmp_path):
    flags = ["--tracker.momentum=0.9"]
    with pytest.raises(RecipeError, match="the momentum is too large"):
        tune(tmp_path / "s", tries=50, flags=flags, seeds=(100,))
    assert len(started_runs(tmp_path / "s")) == 5


def test_a_study_of_other_settings_is_refused_and_stays(quick, tmp_path):
    first = numbers(tune(tmp_path / "s", tries=1))
    changed = [
        ({"flags": ["--tracker.momentum=0.3"]}, ("tracker.momentum", "0.3")),
        ({"seeds": (100, 102)}, ("seeds", "[100, 102]")),
        ({"metrics": ("pre_bn",)}, ("metrics", "pre_bn:max")),
        ({"search": {**SEARCH, "scheme.weight_bits": [3, 4]}}, ("scheme.weight_bits",)),
    ]
    for options, told in changed:
        with pytest.raises(RecipeError, match=telling(*told)):
            tune(tmp_path / "s", **{"tries": 1, **options})
    assert numbers(loaded(tmp_path / "s")) == first


def test_a_study_that_quiesce_did_not_make_is_refused(quick, tmp_path):
    url = f"sqlite:///{tmp_path / 'other.db'}"
    other = optuna.create_study(study_name="mine", storage=url)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(RecipeError, match="mine"):
        tune(tmp_path / "s", storage=url, name="mine")
    assert not (tmp_path / "s").exists()
    assert len(optuna.load_study(study_name="mine", storage=url).trials) == 1


def test_seeds_that_will_be_reported_are_warned_of(quick, tmp_path, capsys):
    told = []
    tune(tmp_path / "s", tries=1, seeds=(3, 100), tell=told.append)
    assert told[0].startswith("warning: ")
    assert " 3," in told[0]
    best = str(tmp_path / "s" / "best.yaml")
    for seeds, met in (("0-2", False), ("99-101", True)):
        assert main(["sweep", best, f"--seeds={seeds}", f"--output={tmp_path / seeds}"]) == 0
        warning = capsys.readouterr().err.partition("\n")[0]
        assert (warning.startswith("warning: ") and " 100," in warning) == met
