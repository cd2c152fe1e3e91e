"""From folders to runs, their names and their groups."""

import shutil

import numpy as np
import pytest

from quiesce.errors import RecipeError
from quiesce.report.collect import collect
from quiesce.report.reading.series import WINDOW, smoothed, thinned
from quiesce.report.run_data import Series
from support.made_runs import Made, make_run, make_sweep


def test_a_whole_run_has_everything(made):
    run = made()
    assert run.finished
    assert (run.recipe, run.seed, run.steps, run.cure) == ("made_lsq_w3a3", 0, 1000, "none")
    assert (run.data or {})["name"] == "made_up"
    assert (run.top1.running, run.top1.reestimated) == (97.2, 97.8)
    assert (run.batchnorm_loss.running, run.batchnorm_loss.reestimated) == (0.047, 0.028)
    assert len(run.layers) == 14
    assert len(run.low_bit_layers) == 12  # without the 8-bit stem and classifier
    assert run.over_time is not None
    assert run.over_time.oscillating.shape == (14, 40)
    assert run.trajectories is not None
    assert run.trajectories.position.shape == (400, 16)
    # scale 0.1, latents within 0.2 codes of a threshold
    distance = np.abs(run.trajectories.position % 1 - 0.5)
    assert distance.max() < 0.2
    assert run.probe is not None
    assert run.probe.learned is not None
    assert run.probe.learned.loss == 0.041


OPTIONAL = (
    "metrics.csv", "layers.csv", "batchnorm.csv", "batchnorm_loss.csv", "trajectories.npz",
    "diagnosis.json", "probe.json",
)  # fmt: skip


def test_of_a_run_without_optional_files_the_summary_is_left(made):
    run = made(remove=OPTIONAL)
    assert run.finished
    assert len(run.layers) == 14
    assert len(run.batchnorms) == 6
    assert not run.diagnosed
    assert run.curves == {}
    assert run.over_time is run.trajectories is run.probe is None


def test_a_run_without_a_recipe_is_known_by_its_summary(made):
    run = made(remove=["recipe.yaml"])
    assert (run.recipe, run.cure, run.low_bits) == ("made_lsq_w3a3", None, 3)


def test_a_run_that_was_cut_off_is_read_as_far_as_it_went(made):
    run = made(finished=False)
    assert not run.finished
    assert run.steps == 330  # a third of 1000, written down every tenth step
    assert run.top1.running == pytest.approx(run.curves["top1_percent"].values[-1])
    assert run.train_loss == pytest.approx(run.curves["epoch_loss"].values[-1])
    depthwise = [layer for layer in run.low_bit_layers if layer.kind == "depth-wise"]
    shares = [layer.oscillating for layer in depthwise]  # layers of equal size
    assert run.oscillating_depthwise == pytest.approx(sum(shares) / len(shares))


def test_a_run_that_was_cut_off_before_its_first_step(made):
    run = made(finished=False, remove=OPTIONAL)
    assert (run.steps, run.oscillating, run.layers) == (0, None, ())


def test_a_file_that_is_none_of_ours_inside(made, tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "diagnosis.json").write_text('{"version": 1, "layers": [{}]}')
    with pytest.raises(RecipeError, match=r"diagnosis\.json is damaged: .*`name`"):
        collect([tmp_path / "run"])


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", Made(seed=seed))
    make_run(tmp_path / "b", Made(name="other"))
    subject = collect([tmp_path / "a0", tmp_path / "b", tmp_path / "a1", tmp_path / "a2"])
    assert [(each.label, len(each.runs)) for each in subject.groups] == [
        ("made_lsq_w3a3", 3),
        ("b", 1),
    ]


def test_runs_of_one_name_and_other_settings_are_two_groups(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", Made(lr=0.1))
    assert [group.label for group in collect([tmp_path / "a", tmp_path / "b"]).groups] == ["a", "b"]


def test_runs_of_one_folder_name_are_told_apart_by_the_folder_above(tmp_path):
    for above in ("first", "second"):
        make_run(tmp_path / above / "lsq", Made(name=above))
    subject = collect([tmp_path / "first" / "lsq", tmp_path / "second" / "lsq"])
    assert [run.title for run in subject.runs] == ["first/lsq", "second/lsq"]


def test_a_run_named_twice_is_one(tmp_path):
    make_run(tmp_path / "lsq")
    assert len(collect([tmp_path / "lsq", tmp_path / "." / "lsq"]).runs) == 1


def test_a_folder_of_runs(tmp_path):
    for name in ("lsq", "freeze"):
        make_run(tmp_path / "demo" / name, Made(name=name))
    (tmp_path / "demo" / "notes").mkdir()
    subject = collect([tmp_path / "demo"])
    assert subject.title == "demo"
    assert [run.title for run in subject.runs] == ["freeze", "lsq"]


def test_a_sweep_has_one_group_for_each_setting(tmp_path):
    make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01, 0.02])
    subject = collect([tmp_path / "sweep"])
    assert subject.swept == ("cure.threshold.end",)
    assert subject.missing == ("made-cure.threshold.end=0.02-seed1",)
    assert [(group.label, len(group.runs)) for group in subject.groups] == [
        ("threshold.end = 0.01", 2),
        ("threshold.end = 0.02", 1),
    ]


def test_a_sweep_that_has_not_begun(tmp_path):
    folder = make_sweep(tmp_path / "sweep", "seed", [1])
    for run in folder.glob("made-*"):
        shutil.rmtree(run)
    with pytest.raises(RecipeError, match="none of the 2 runs of the sweep has started"):
        collect([folder])


def test_thinning_keeps_means_and_the_last_point():
    steps = np.arange(10_000.0)
    series = thinned(steps, np.sin(steps) + steps, most=100)
    assert len(series.steps) == 100
    assert series.steps[-1] == 9_999
    assert series.values[-1] == np.sin(9_999.0) + 9_999
    # each other point is the mean of 101 neighbours, in which the sine all but vanishes
    assert np.abs(series.values[:-1] - series.steps[:-1]).max() < 0.05


def test_running_means_keep_a_line_and_calm_noise():
    steps = np.arange(200.0)
    line = smoothed(Series(steps=steps, values=steps))
    half = round(WINDOW * 200 / 2)
    assert line.values[half:-half] == pytest.approx(steps[half:-half])
    noise = smoothed(Series(steps=steps, values=(-1.0) ** steps))
    # of an odd number of alternating signs one is left over, half a window at the ends
    assert np.abs(noise.values).max() <= 1 / (half + 1)
