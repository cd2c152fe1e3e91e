"""Damaged and hostile files, through the commands that read them: one line, no code, no writes."""

import json
import os

import numpy as np
import pytest

from quiesce.cli import main
from quiesce.files.atomic import write_beside
from quiesce.run_folder.folder import write_json
from support.made_runs import Made, make_run, make_sweep
from support.messages import tells

QUICK = "mnist_freeze_w3a3"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path / "run", Made(blocks=2, weights=500, steps=450))


@pytest.mark.parametrize("text", [LAUGHS, "[" * 10_000], ids=["aliases", "nesting"])
def test_a_small_recipe_that_is_large(text, refused, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    assert "mine.yaml: not valid YAML: it is" in refused("train", "mine.yaml")
    assert "mine.yaml: not valid YAML: it is" in refused("sweep", "mine.yaml", "--dry-run")


@pytest.mark.parametrize("field", ["data: {mean: %s}", "trainer: {limit_val_batches: %s}"])
def test_a_text_in_a_recipe_that_is_large_as_yaml(field, refused, tmp_path):
    """Nine levels would be written out as gigabytes in the message; a hang, too."""
    levels = zip("abcdefghi", "bcdefghij", strict=True)
    laughs = [f"&{name} [{','.join([f'*{before}'] * 9)}]" for before, name in levels]
    text = json.dumps(f"[&a [x], {', '.join(laughs)}]")
    (tmp_path / "mine.yaml").write_text(field % text)
    told = refused("train", "mine.yaml", "--print_config")
    assert "must be a" in told
    assert len(told) < 1000


def test_null_where_a_text_belongs(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {name: null}")
    assert tells(refused("train", "mine.yaml"), "mine.yaml", "`model.name`", "null")


def test_a_number_too_large_for_a_float(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"weights_optimizer: {{lr: 1{'0' * 400}}}")
    assert "mine.yaml: `weights_optimizer.lr` must be a number, got 1000" in refused(
        "train", "mine.yaml"
    )


@pytest.mark.parametrize(
    "cure",
    [
        "{class_path: os.system, init_args: {command: touch proof}}",
        "os.system",
        "!!python/object/apply:os.system ['touch proof']",
    ],
)
def test_no_class_is_named_by_a_recipe(cure, refused, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"cure: {cure}")
    told = refused("train", "mine.yaml", "--print_config")
    assert "unknown field `cure.class_path`" in told or "mine.yaml" in told
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["hf-hub:someone/network", "local-dir:/tmp/x", "os.system"])
def test_no_network_is_fetched_by_its_name(name, refused, tiny_run):
    assert "no network is called" in refused("train", QUICK, *tiny_run, f"--model.name={name}")


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "a\tb"])
def test_names_in_recipes_and_sweeps_lead_nowhere(name, refused, tmp_path):
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": name}))
    assert "`name` must be a word without slashes" in refused("train", "mine.yaml")
    (tmp_path / "swept.yaml").write_text(json.dumps({"name": name, "recipe": QUICK}))
    assert "`name` must be a word without slashes" in refused("sweep", "swept.yaml", "--dry-run")


def test_the_home_of_nobody_is_no_traceback(refused, tiny_run):
    told = refused("train", QUICK, *tiny_run, "--model.weights=~nobody-here/weights.pt")
    assert "~nobody-here/weights.pt is not a file" in told


def test_a_sweep_lists_no_runs_of_elsewhere(tmp_path, refused):
    make_run(tmp_path / "elsewhere")
    sweep = make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01, 0.02], seeds=1)
    tree = json.loads((sweep / "sweep.json").read_text())
    for run in tree["runs"]:
        run["folder"] = "../elsewhere"
    (sweep / "sweep.json").write_text(json.dumps(tree))
    for command in ("compare", "report"):
        assert "`folder` must be a name without slashes" in refused(command, sweep)


ODD_SWEEPS = {
    "`folder` must be a name": ("report", lambda run: run.update(folder="a\0b")),
    "at `runs[0]`": ("compare", lambda run: run.update(folder="a\0b")),
    "more than 20 digits": (
        "report",
        lambda run: run["fields"].update({"cure.threshold.end": 10**400}),
    ),
}


@pytest.mark.parametrize("said", ODD_SWEEPS)
def test_a_sweep_that_sets_or_names_what_can_not_be(said, refused, tmp_path):
    command, change = ODD_SWEEPS[said]
    sweep = make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01, 0.02], seeds=1)
    tree = json.loads((sweep / "sweep.json").read_text())
    change(tree["runs"][0])
    (sweep / "sweep.json").write_text(json.dumps(tree))
    assert said in refused(command, sweep)


def test_a_sweep_over_lists_is_reported(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", "trainer.loggers", [["csv", "x"], ["csv"]], seeds=1)
    page = tmp_path / "page.html"
    assert main(["report", str(sweep), "-o", str(page)]) == 0
    assert "loggers = [&#34;csv&#34;, &#34;x&#34;]" in page.read_text()


def test_a_file_that_is_a_device(made, refused):
    (made / "summary.json").unlink()
    (made / "summary.json").symlink_to("/dev/zero")
    assert "not a regular file" in refused("report", made)
    (made / "recipe.yaml").unlink()
    (made / "recipe.yaml").symlink_to("/dev/zero")
    assert "recipe.yaml is damaged: it is not a regular file" in refused("report", made)


def test_numbers_that_are_none(made, refused):
    tree = json.loads((made / "summary.json").read_text())
    tree["top1_percent"]["trained"] = "high"
    (made / "summary.json").write_text(json.dumps(tree))
    for command in ("report", "compare"):
        assert "got `str` - at `top1_percent" in refused(command, made)


def test_layers_that_are_too_many_for_a_page(made, refused):
    tree = json.loads((made / "diagnosis.json").read_text())
    tree["batchnorm"] = tree["batchnorm"][:1] * 20_001
    (made / "diagnosis.json").write_text(json.dumps(tree))
    assert "length <= 20000 - at `batchnorm`" in refused("report", made)


def test_trajectories_that_would_multiply(made, refused):
    arrays = dict(np.load(made / "trajectories.npz"))
    arrays["latent"], arrays["scale"] = np.zeros((10**6, 1)), np.zeros((1, 10**6))
    np.savez(made / "trajectories.npz", **arrays)
    assert tells(refused("report", made), "trajectories.npz", "400", "16")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-(10**9), 10**9, "-1000000000 to 1000000000"),
        (3, -4, "3 to -4"),
        (-4, np.nan, "float64"),
    ],
)
def test_a_grid_that_is_none(low, high, told, made, refused):
    arrays = dict(np.load(made / "trajectories.npz"))
    np.savez(made / "trajectories.npz", **arrays | {"quant_min": low, "quant_max": high})
    assert told in refused("report", made)


def test_steps_that_are_texts(made, refused):
    arrays = dict(np.load(made / "trajectories.npz"))
    arrays["steps"] = arrays["steps"].astype(str)
    np.savez(made / "trajectories.npz", **arrays)
    assert "int64" in refused("report", made)


@pytest.mark.parametrize(
    ("value", "told"), [(np.nan, "not finite"), (1e38, "too large"), (1e20, None)]
)
def test_latents_that_no_weight_has(value, told, made, refused, tmp_path):
    arrays = dict(np.load(made / "trajectories.npz"))
    arrays["latent"][5:9] = value
    np.savez(made / "trajectories.npz", **arrays)
    if told is None:  # far off, and drawn without as many thresholds as codes lie between
        assert main(["report", str(made), "-o", str(tmp_path / "page.html")]) == 0
    else:
        assert told in refused("report", made)


def test_layers_that_are_too_many_to_show(made, refused):
    rows = "".join(f"{number},{number},0\n" for number in range(3000))
    (made / "layers.csv").write_text(f"step,layer,oscillating\n{rows}")
    assert tells(refused("report", made), "3,000 layers", "3,000 steps")


def test_writing_does_not_follow_links(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.write_text("keep")
    run.mkdir()
    for name in ("probe.json", f".probe.json.{os.getpid()}"):
        (run / name).symlink_to(outside)
    write_json(run / "probe.json", {"version": 1})
    write_beside(run / "probe.json", lambda beside: beside.write_text("again"))
    assert outside.read_text() == "keep"
    assert not (run / "probe.json").is_symlink()
