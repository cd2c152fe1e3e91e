"""Whole sweeps on tiny made-up images: resumed, repaired, refused."""

import json
import shutil
from dataclasses import replace

import pytest
from filelock import FileLock

from quiesce.comparison.finished_runs import find_runs
from quiesce.errors import RecipeError
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.sweep import Sweep
from support.engines import InProcess

VARIANTS = {"lsq": {"recipe": "mnist_lsq_w3a3"}, "dampening": {}}
SWEEP = Sweep(name="s", recipe="mnist_dampen_w3a3", variants=VARIANTS, baseline="lsq")


class Swept:
    """A sweep in a folder, and what each call of it ran."""

    def __init__(self, folder, flags, engine=None):
        self.folder, self.flags, self.engine = folder, flags, engine

    def __call__(self, sweep=SWEEP, *flags, **options):
        self.started = []

        def tell(task, why):
            if not why.endswith(" failed"):  # else the task that it needs has
                self.started.append(task.name.partition("-seed")[0])

        runs = plan(sweep, [*self.flags, *flags])
        return run_sweep(sweep, runs, self.folder, engine=self.engine, tell=tell, **options)


@pytest.fixture(scope="module")
def finished(tiny_flags, tmp_path_factory):
    """The folder of a finished sweep; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    swept = Swept(folder, [*tiny_flags, "--float_stage.epochs=1"], InProcess())
    outcome = swept()
    return folder, outcome, swept.started


@pytest.fixture
def copied(finished, tiny_flags, tmp_path):
    shutil.copytree(finished[0], tmp_path / "sweep")
    return Swept(tmp_path / "sweep", [*tiny_flags, "--float_stage.epochs=1"], InProcess())


class Pretending:
    """An engine whose tasks only leave the file that says they are finished."""

    def run(self, tasks, tell):
        for task in tasks:
            made = task.folder / ("float.safetensors" if task.only_float else "summary.json")
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()
            tell(task, "")


@pytest.fixture
def swept(tiny_flags, tmp_path):
    """A finished sweep of such runs."""
    swept = Swept(tmp_path / "sweep", [*tiny_flags, "--float_stage.epochs=1"], Pretending())
    swept()
    return swept


def test_every_run_starts_from_the_one_float_network_of_its_seed(finished):
    folder, outcome, started = finished
    assert (outcome.finished, outcome.total, outcome.failed) == (2, 2, {})
    assert started[0] == "float"
    assert sorted(started[1:]) == ["dampening", "lsq"]
    runs = find_runs([folder]).finished
    assert [run.name for run in runs] == ["lsq", "dampening"]
    for what in ("float", "rounded"):
        assert len({run.summary.top1_percent[what] for run in runs}) == 1
    assert all("float_stage" not in run.summary.seconds for run in runs)


def test_sweep_json_lists_the_runs(swept):
    tree = json.loads((swept.folder / "sweep.json").read_text())
    assert (tree["version"], tree["recipe"], tree["seeds"]) == (1, "mnist_dampen_w3a3", [0])
    assert tree["baseline"] == "lsq"
    assert tree["runs"][0] == {
        "folder": "lsq-seed0",
        "variant": "lsq",
        "fields": {},
        "seed": 0,
    }


def test_what_is_finished_is_not_run_again_and_what_is_broken_is(swept):
    assert swept().finished == 2
    assert swept.started == []
    (swept.folder / "lsq-seed0" / "summary.json").unlink()
    assert swept().finished == 2
    assert swept.started == ["lsq"]


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(copied):
    (copied.folder / "lsq-seed0" / "summary.json").unlink()
    copied.engine = LocalEngine()
    assert copied().finished == 2
    assert "resuming from" in (copied.folder / "logs" / "lsq-seed0.log").read_text()


def test_a_float_network_that_was_cut_off_is_trained_again(swept):
    (network,) = swept.folder.glob("float/*/float.safetensors")
    network.unlink()
    shutil.rmtree(swept.folder / "lsq-seed0")
    assert swept().finished == 2
    assert swept.started == ["float", "lsq"]


def test_a_sweep_can_be_added_to_and_be_done_in_portions(swept):
    more = replace(SWEEP, variants={"lsq": VARIANTS["lsq"]}, grid={"cure.max_bits": [4]})
    outcome = swept(replace(more, seeds=(0, 1)), at_most=1)
    assert (outcome.finished, outcome.total) == (1, 2)
    assert swept.started == ["lsq-max_bits=4"]
    tree = json.loads((swept.folder / "sweep.json").read_text())
    assert len(tree["runs"]) == 4  # two of before, two of now
    assert (tree["seeds"], tree["set"]) == ([0, 1], {"cure.max_bits": [4]})


def test_a_failed_run_does_not_stop_the_others(copied):
    variants = {"bad": {"model.weights": "gone.pt", "float_stage.epochs": None}, **VARIANTS}
    (copied.folder / "dampening-seed0" / "summary.json").unlink()
    outcome = copied(replace(SWEEP, variants=variants))
    assert copied.started == ["bad", "dampening"]
    assert (outcome.finished, outcome.total) == (2, 3)
    assert "gone.pt" in outcome.failed["bad-seed0"]


@pytest.mark.slow
def test_runs_of_a_float_network_that_failed_fail(tiny_flags, tmp_path):
    swept = Swept(tmp_path / "s", [*tiny_flags, "--float_stage.epochs=1"])
    outcome = swept(SWEEP, "--data.name=folder", f"--data.folder={tmp_path}")
    assert swept.started == ["float"]
    assert outcome.finished == 0
    (reason,) = (why for name, why in outcome.failed.items() if name.startswith("float"))
    assert str(tmp_path) in reason
    assert outcome.failed["lsq-seed0"].endswith(" failed")


def test_a_changed_recipe_is_refused(swept):
    with pytest.raises(RecipeError, match=r"scheme\.act_bits was 3 and now is 8; give another"):
        swept(SWEEP, "--scheme.act_bits=8")


def test_a_folder_of_something_else_is_refused(swept):
    (swept.folder / "sweep.json").unlink()
    with pytest.raises(RecipeError, match="is not a sweep"):
        swept()


def test_two_sweeps_in_one_folder_are_refused(swept):
    with (
        FileLock(swept.folder / ".lock"),
        pytest.raises(RecipeError, match="another process is sweeping in"),
    ):
        swept()


def test_a_sweep_without_variants_lists_none(tiny_flags, tmp_path):
    Swept(tmp_path / "s", tiny_flags, Pretending())(Sweep(name="s", recipe="mnist_lsq_w3a3"))
    (run,) = json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]
    assert run == {"folder": "mnist_lsq_w3a3-seed0", "fields": {}, "seed": 0}


def test_a_folder_that_holds_links_is_not_gone_on_in(swept, tmp_path):
    outside = tmp_path / "outside"
    (swept.folder / "logs").mkdir(exist_ok=True)
    (swept.folder / "logs" / "next.log").symlink_to(outside)
    with pytest.raises(RecipeError, match=r"logs/next\.log is a symbolic link"):
        swept()
    assert not outside.exists()
