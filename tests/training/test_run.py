"""Whole runs on tiny made-up images: what the folder holds, and that it says the truth."""

import csv
import json
import math
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

from quiesce.after_training.evaluate import evaluate
from quiesce.errors import DivergedError, PrepareError, RecipeError
from quiesce.models.build import build_model
from quiesce.recipes.reading import read_recipe
from quiesce.training import stages
from quiesce.training.run import run
from support.network_file import read_description
from support.tiny import RECORDED

QUICK = "mnist_freeze_w3a3"


@pytest.fixture
def recipe(tiny_run):
    return read_recipe(QUICK, tiny_run)


@pytest.fixture(scope="session")
def finished(tiny_flags, trained):
    folder, (name, *flags) = trained(*RECORDED), RECORDED
    recipe = read_recipe(name, [*tiny_flags, *flags, f"--run={folder}"])
    return recipe, json.loads((folder / "summary.json").read_text())


def test_a_run_folder_holds_everything(finished):
    recipe, _ = finished
    names = {str(path.relative_to(recipe.folder)) for path in recipe.folder.rglob("*")}
    events = [name for name in names if name.startswith("tensorboard/events")]
    assert events
    assert names >= {"recipe.yaml", "metrics.csv", "checkpoints/last.ckpt", "network.safetensors"}
    assert not [name for name in names if name.startswith(".")]


def test_the_kept_recipe_is_the_resolved_one(finished):
    recipe, _ = finished
    assert read_recipe(str(recipe.folder / "recipe.yaml")) == recipe


def test_the_summary_measures_every_stage(finished):
    _, summary = finished
    assert summary["version"] == 1
    assert (summary["name"], summary["seed"], summary["steps"]) == (QUICK, 0, 6)
    assert set(summary["top1_percent"]) == {"float", "rounded", "trained", "reestimated"}
    assert all(0 <= value <= 100 for value in summary["top1_percent"].values())
    assert math.isfinite(summary["train_loss"])
    assert 0 < summary["seconds_per_step"] < summary["seconds"]["all"]
    assert summary["versions"]["torch"] == version("torch")


def test_the_summary_tells_of_every_layer_under_its_own_name(finished):
    recipe, summary = finished
    layers = summary["oscillation"]["layers"]
    network = build_model(recipe.model, num_classes=4, input_shape=(3, 16, 16))
    names = {name for name, _ in network.named_modules()}
    assert {layer["name"] for layer in layers} <= names
    assert sum(each["weights"] for each in layers) == summary["oscillation"]["every_bit"]["weights"]
    assert {layer["depthwise"] for layer in layers if ".depthwise." in layer["name"]} == {True}
    assert {layer["depthwise"] for layer in layers if ".depthwise." not in layer["name"]} == {False}
    assert set(summary["batchnorm_kl"]) <= names
    assert all(kl["max"] >= kl["mean"] >= 0 for kl in summary["batchnorm_kl"].values())


def test_metrics_hold_loss_and_oscillation_of_each_step(finished):
    recipe, _ = finished
    with (recipe.folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    assert len(rows) == 6
    assert all(0 <= float(row["oscillating"]) <= 1 for row in rows)


def test_the_header_describes_the_quantization(finished):
    recipe, _ = finished
    path = recipe.folder / "network.safetensors"
    layers = read_description(path)["layers"]
    tensors = load_file(path)
    bits = [layer["weight"]["bits"] for layer in layers.values()]
    assert bits == [8, *[3] * (len(bits) - 2), 8]
    assert layers["stem.0"]["input"] is None  # the image stays in float
    for layer in layers.values():
        for quantizer in filter(None, layer.values()):
            assert tensors[quantizer["scale"]].item() > 0
            assert quantizer["quant_max"] - quantizer["quant_min"] == 2 ** quantizer["bits"] - 1


def test_evaluating_a_folder_gives_the_accuracy_of_the_summary(finished):
    recipe, summary = finished
    assert evaluate(recipe.folder).top1_percent == summary["top1_percent"]["reestimated"]


def test_evaluation_can_look_at_other_images(finished):
    recipe, _ = finished
    flags = ["--data.test_images", "8", "--trainer.limit_val_batches", "1"]
    top1 = evaluate(recipe.folder, flags).top1_percent
    assert top1 * 8 / 100 == pytest.approx(round(top1 * 8 / 100))  # a share of 8 images


def test_two_runs_of_one_seed_are_equal_to_the_bit(finished, tmp_path):
    recipe, first = finished
    second = run(replace(recipe, run=str(tmp_path / "again")))
    written = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert written == json.loads(json.dumps(second))
    assert first["top1_percent"] == second["top1_percent"]
    one = load_file(recipe.folder / "network.safetensors")
    other = load_file(tmp_path / "again" / "network.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_quantized_stage_starts_from_the_float_stage(tiny_run, tmp_path):
    flags = [*tiny_run, "--float_stage.epochs=1", "--trainer.limit_train_batches=1"]
    recipe = read_recipe(QUICK, flags)
    summary = run(recipe)
    assert summary["seconds"]["float_stage"] > 0
    weights = str(recipe.folder / "float.safetensors")
    after = read_recipe(QUICK, [*tiny_run, f"--model.weights={weights}", f"--run={tmp_path / 'b'}"])
    again = run(after)
    assert again["top1_percent"]["float"] == summary["top1_percent"]["float"]


def test_without_a_batch_count_no_statistics_are_measured_again(tiny_run):
    summary = run(read_recipe(QUICK, [*tiny_run, "--batchnorm.batches=null"]))
    assert summary["top1_percent"]["reestimated"] is None
    assert summary["batchnorm_kl"] == {}


def test_a_network_without_batch_norm_runs(tiny_run):
    flags = [*tiny_run, "--model.name=test_vit", "--data.image_size=32"]
    summary = run(read_recipe(QUICK, flags))
    assert summary["top1_percent"]["reestimated"] is None
    assert summary["oscillation"]["low_bit_depthwise"]["oscillating"] is None


def test_the_float_stage_can_have_a_schedule_of_its_own(tiny_run, monkeypatch):
    seen = []
    classifier = stages.Classifier
    monkeypatch.setattr(
        stages,
        "Classifier",
        lambda n, make, schedule: seen.append(schedule) or classifier(n, make, schedule),
    )
    flags = ["--float_stage.epochs=1", "--lr_schedule.kind=constant", "--lr_schedule.end=0.3"]
    run(read_recipe("mnist_lsq_w3a3", [*tiny_run, *flags, "--float_stage.lr_decay=linear"]))
    assert [(each.kind, each.end) for each in seen] == [("linear", 0.0), ("constant", 0.3)]


def test_float_activations_leave_weight_quantizers_alone(tiny_run):
    run(recipe := read_recipe(QUICK, [*tiny_run, "--scheme.act_bits=null"]))
    layers = read_description(recipe.folder / "network.safetensors")["layers"]
    assert {layer["input"] for layer in layers.values()} == {None}


@pytest.mark.parametrize("cure", ["none", "dampen", "freeze"])
def test_accumulation_clipping_and_low_precision_go_with_every_cure(cure, tiny_run):
    flags = [
        "--trainer.accumulate_grad_batches=2",
        "--trainer.gradient_clip_val=1.0",
        "--trainer.precision=bf16-mixed",
        f"--cure.kind={cure}",
    ]
    summary = run(read_recipe("mnist_lsq_w3a3", [*tiny_run, *flags]))
    assert summary["steps"] == 2


def test_an_existing_folder_is_left_as_it_is(recipe):
    recipe.folder.mkdir()
    (recipe.folder / "mine").write_text("keep")
    with pytest.raises(RecipeError, match="exists already; give another"):
        run(recipe)
    assert [path.name for path in recipe.folder.iterdir()] == ["mine"]


def test_a_scheme_that_fits_no_layer_is_refused_before_a_folder_is_made(tiny_run):
    recipe = read_recipe(QUICK, [*tiny_run, "--scheme.exclude=[nothing.*]"])
    with pytest.raises(PrepareError, match=r"'nothing\.\*' matches no layer"):
        run(recipe)
    assert not recipe.folder.exists()


def test_a_device_that_is_not_there_is_refused_before_a_folder_is_made(tiny_run):
    recipe = read_recipe(QUICK, [*tiny_run, "--trainer.accelerator=tpu"])
    with pytest.raises(RecipeError, match="trainer: "):
        run(recipe)
    assert not recipe.folder.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_layer(tiny_run):
    flags = [*tiny_run, "--trainer.max_steps=5", "--weights_optimizer.lr=1e38"]
    recipe = read_recipe(QUICK, flags)
    with pytest.raises(DivergedError, match=r"step \d: a weight of the layer '[\w.]+'"):
        run(recipe)
    assert not recipe.folder.exists()  # there was no checkpoint to keep


@pytest.mark.parametrize("mode", ["off", "quantizers"])
def test_the_network_is_compiled_as_the_recipe_says(mode, tiny_run, monkeypatch):
    modes = []
    monkeypatch.setattr("quiesce.compile", lambda _, asked: modes.append(asked))
    run(read_recipe(QUICK, [*tiny_run, f"--compile={mode}"]))
    assert modes == [mode]
