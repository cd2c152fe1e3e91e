"""Recipes from names, files and flags; each error is one line that names the field."""

from dataclasses import replace

import pytest
import yaml

from quiesce.errors import RecipeError
from quiesce.recipes.reading import (
    change_recipe,
    find_recipe,
    read_recipe,
    shipped_recipes,
    write_recipe,
)
from support.messages import tells

ANY = "mnist_freeze_w3a3"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


LATER = ("trs", "osci_reset", "freeze_target", "q_ramping", "cga", "correct")
"""Cures with a recipe for the digits at 3 bits only."""


def refusal(recipe, flags=()):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_network_is_shipped_with_every_method_and_digits_at_2_bits_too():
    names = shipped_recipes()
    networks = ("mobilenetv2", "mobilenetv3_small", "efficientnet_lite0", "resnet18", "mnist")
    methods, bits = ("lsq", "dampen", "freeze"), ("w4a4", "w3a3")
    wanted = {f"{n}_{m}_{b}" for n in networks for m in methods for b in bits}
    emoji = ("emoji", "emoji_lite0")
    wanted |= {f"{n}_{m}_{b}" for n in emoji for m in methods for b in ("w2a4", "w3a3", "w2a2")}
    wanted |= {f"mnist_{m}_w3a3" for m in LATER}
    assert set(names) == wanted | {f"mnist_{m}_w2a2" for m in methods}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_does_what_its_name_says(name):
    recipe = read_recipe(name)
    network, _, bits = name.rpartition("_")
    method = next((m for m in LATER if network.endswith(f"_{m}")), network.split("_")[-1])
    assert recipe.name == name
    kinds = {"lsq": "none", "correct": "none", "freeze_target": "freeze"}
    assert recipe.cure.kind == kinds.get(method, method)
    assert (recipe.cure.correction_batches is not None) == (method == "correct")
    assert (recipe.cure.target is not None) == (method == "freeze_target")
    assert f"w{recipe.scheme.weight_bits}a{recipe.scheme.act_bits}" == bits


def test_methods_of_a_shipped_network_differ_in_nothing_but_the_cure():
    for name in shipped_recipes():
        if "_lsq_" in name:
            trees = [
                read_recipe(name.replace("_lsq_", f"_{m}_")).tree()
                for m in ("lsq", "dampen", "freeze", *(LATER if name == "mnist_lsq_w3a3" else ()))
            ]
            for tree in trees:
                if tree["cure"]["target"] is not None:  # it sets the momentum too
                    assert tree["tracker"]["momentum"] is None
                    tree["tracker"] = trees[0]["tracker"]
                del tree["name"], tree["cure"]
            assert all(tree == trees[0] for tree in trees)


def test_flags_override_the_file_and_keep_the_rest(file):
    path = file("name: x\nseed: 3\nweights_optimizer: {lr: 1e-3, momentum: 0.5}")
    recipe = read_recipe(path, ["--weights_optimizer.lr=2e-4", "--data.mean", "[0.5]"])
    assert recipe.seed == 3
    assert (recipe.weights_optimizer.lr, recipe.weights_optimizer.momentum) == (2e-4, 0.5)
    assert recipe.data.mean == (0.5,)


def test_a_flag_sets_several_fields_of_a_section_and_keeps_the_others(tmp_path):
    changed = read_recipe(ANY, ["--cure.max_bits=3", "--cure.threshold={end: 0.02}"])
    (tmp_path / "cure.yaml").write_text("{max_bits: 3, threshold: {end: 0.02}}")
    assert read_recipe(ANY, [f"--cure={tmp_path / 'cure.yaml'}"]) == changed
    start = read_recipe(ANY).cure.threshold
    assert (changed.cure.kind, changed.cure.max_bits) == ("freeze", 3)
    assert changed.cure.threshold == replace(start, end=0.02)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("2", 2), ("auto", "auto")],
)
def test_a_union_of_number_and_text(flag, value):
    assert read_recipe(ANY, ["--trainer.devices", flag]).trainer.devices == value


def test_null_is_no_text(tmp_path):
    assert read_recipe(ANY, ["--run", "null"]).run is None
    assert read_recipe(ANY, ["--run", "3"]).run == "3"


def test_a_file_without_a_name_is_called_as_the_file(file):
    assert read_recipe(file("seed: 1")).name == "mine"


@pytest.mark.parametrize("name", shipped_recipes()[::7])
def test_what_is_written_reads_back_equal(name, file):
    recipe = read_recipe(name, ["--trainer.limit_val_batches", "0.5", "--float_stage.epochs", "2"])
    assert read_recipe(file(write_recipe(recipe))) == recipe


def test_an_unknown_name_is_answered_with_the_nearest():
    assert tells(refusal("mnist_frez_w3a3"), "'mnist_frez_w3a3'", "'mnist_freeze_w3a3'")
    assert "`quiesce recipes` lists" in refusal("zzz")
    assert "no such file" in refusal("not/there.yaml")


def test_a_shipped_name_wins_over_a_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ANY).mkdir()
    assert find_recipe(ANY).suffix == ".yaml"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scheme.wieght_bits", "3"], "`scheme.wieght_bits`; did you mean 'scheme.weight_bits'?"),
        (["--zzz", "3"], "unknown field `zzz`; see `quiesce train RECIPE --help`"),
        (["--seed", "x"], "`seed` must be a whole number, got x"),
        (["--scheme.per_channel", "3"], "`scheme.per_channel` must be true or false, got 3"),
        (["--scheme.act_bits", "3.5"], "`scheme.act_bits` must be a whole number or null, got 3.5"),
        (["--scheme.overrides", "{a: 3}"], "`scheme.overrides.a` must be a mapping, got 3"),
        (
            ["--cure.kind", "foo"],
            "`cure.kind` must be one of none, dampen, freeze, trs",
        ),
        (
            ["--trainer.loggers", "[foo]"],
            "must be a list, each one of csv, tensorboard, wandb, mlflow, trackio, got ['foo']",
        ),
        (["--trainer.limit_val_batches", "x"], "must be a number or null, got x"),
        (["more"], "unexpected word 'more'; flags are --field.name value"),
        (["--seed"], "expected one argument"),
        (["--scheme.weight_bits", "9"], "must be 2 to 8, got 9"),
        (["--data.batch_size", "0"], f"{ANY}: data: `batch_size` must be at least 1, got 0"),
    ],
)
def test_a_bad_flag_is_named(flags, message):
    assert message in refusal(ANY, flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cure: {kin: freeze}", "unknown field `cure.kin`; did you mean 'kind'?"),
        ("zzz: 1", "unknown field `zzz`; fields here: version, name, seed"),
        ("cure: 3", "`cure` is a section of fields, got 3"),
        ("scheme: {weight_bits: three}", "`scheme.weight_bits` must be a whole number, got three"),
        ("name: [", "not valid YAML"),
        ("- a", "a recipe is a mapping of fields to values, got ['a']"),
        ("", "a recipe is a mapping of fields to values, got None"),
    ],
)
def test_a_bad_file_is_named_with_its_field(text, message, file):
    told = refusal(path := file(text))
    assert told.startswith(path)
    assert message in told


def test_off_is_a_mode_of_compiling(file):
    assert read_recipe(file("compile: off")).compile == "off"
    assert tells(refusal(file("compile: on")), "`compile`", "off", "quantizers", "model")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read as text" in refusal(str(path))


def test_a_saved_recipe_carries_a_version():
    assert yaml.safe_load(write_recipe(read_recipe(ANY)))["version"] == 1


def test_a_changed_recipe_is_one_read_with_those_flags():
    recipe = read_recipe(ANY)
    changed = change_recipe(recipe, {"cure.threshold.end": 0.02, "seed": 3}, "here")
    assert changed == read_recipe(ANY, ["--cure.threshold.end=0.02", "--seed=3"])
    assert recipe == read_recipe(ANY)


def test_a_mapping_replaces_a_whole_section():
    changed = change_recipe(read_recipe(ANY), {"cure": {"kind": "dampen"}}, "here")
    assert changed.cure == type(changed.cure)(kind="dampen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cure.treshold.end": 0.1}, "here: unknown field `cure.treshold`; did you mean"),
        ({"seed.x": 1}, "here: `seed` must be a whole number"),
        ({"cure": 3}, "here: `cure` is a section of fields, got 3"),
        (
            {"tracker.momentum": 2},
            "here: tracker: `momentum` must be above 0 and below 1, or null, got 2",
        ),
    ],
)
def test_a_bad_change_is_named_with_where_it_comes_from(changes, message):
    with pytest.raises(RecipeError) as caught:
        change_recipe(read_recipe(ANY), changes, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
