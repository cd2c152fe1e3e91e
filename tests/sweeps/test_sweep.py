"""What a sweep is: from files and from the command line."""

import pytest

from quiesce.errors import RecipeError
from quiesce.sweeps.sweep import (
    SHIPPED,
    Sweep,
    find_sweep,
    parse_seeds,
    parse_settings,
    read_sweep,
    shipped_sweeps,
)


@pytest.fixture
def read(tmp_path):
    """Reads a sweep file of that text."""

    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return read_sweep(path)

    return read


def test_a_file_is_read_whole(read):
    sweep = read(
        "{version: 1, recipe: a, seeds: 3, baseline: x, variants: {x: {}, y: {cure.kind: none}},"
        "grid: {data.batch_size: [8, 16]}}"
    )
    assert sweep == Sweep(
        name="mine",
        recipe="a",
        seeds=(0, 1, 2),
        baseline="x",
        variants={"x": {}, "y": {"cure.kind": "none"}},
        grid={"data.batch_size": [8, 16]},
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{recipe: a, varants: {}}", "unknown field `varants`; did you mean 'variants'"),
        ("{recipe: a, version: 2}", "`version` must be 1 for this quiesce, got 2"),
        ("{recipe: 3}", "`recipe` must be text, got 3"),
        ("{recipe: a, variants: {x: 3}}", r"`variants\.x` must be a mapping, got 3"),
        ("{recipe: a, grid: {x: 3}}", r"`grid\.x` must be a list, got 3"),
        ("{recipe: a, grid: {x: []}}", "`x` must have values, without repeats"),
        ("{recipe: a, grid: {x: [1, 1]}}", "`x` must have values, without repeats"),
        ("{recipe: a, grid: {seed: [1]}}", "`seed` cannot be set in a sweep: --seeds sweeps it"),
        ("{recipe: a, variants: {x: {run: y}}}", "`run` cannot be set in a sweep"),
        ("{recipe: a, variants: {x/y: {}}}", "names without slashes, got 'x/y'"),
        ("{recipe: a, seeds: [1, 1]}", "`seeds` must be 0 or more, without repeats"),
        ("{recipe: a, seeds: [-1]}", "`seeds` must be 0 or more, without repeats"),
        (
            "{recipe: a, seeds: 1000000000000}",
            "`seeds` must be a number of seeds, at least 1",
        ),
        (
            f"{{recipe: a, grid: {{{', '.join(f'f{n}: [1, 2, 3]' for n in range(20))}}}}}",
            "a sweep has at most 10,000 runs, got 3,486,784,401",
        ),
        ("{recipe: a, seeds: 0}", "`seeds` must be a number of seeds, at least 1"),
        ("{seeds: 2}", "recipe"),
        ("{recipe: a", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(text, told, read):
    with pytest.raises(RecipeError, match=rf"mine\.yaml: .*{told}"):
        read(text)


def test_a_recipe_is_no_sweep(tmp_path):
    (tmp_path / "recipe.yaml").write_text("{name: a}")
    (tmp_path / "sweep.yaml").write_text("{recipe: a}")
    assert find_sweep(str(tmp_path / "recipe.yaml")) is None
    assert find_sweep("mnist_lsq_w3a3") is None
    assert find_sweep(str(tmp_path / "sweep.yaml")) == tmp_path / "sweep.yaml"
    assert find_sweep("mnist_w3a3") == SHIPPED / "mnist_w3a3.yaml"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1", (0,)), ("3", (0, 1, 2)), ("3,7", (3, 7)), ("4,", (4,)), ("3, 7-9", (3, 7, 8, 9))],
)
def test_seeds_are_how_many_or_which(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "x", "1,x", "[", "", "true", "9-7", "0-9999999999"])
def test_other_seeds_are_refused(text):
    with pytest.raises(RecipeError, match="--seeds: "):
        parse_seeds(text)


def test_settings_are_yaml():
    assert parse_settings(["a.b=1,0.5,null", "c=[x,y],[]", "d='1,2'"]) == {
        "a.b": [1, 0.5, None],
        "c": [["x", "y"], []],
        "d": ["1,2"],
    }


@pytest.mark.parametrize("settings", [["a"], ["=1"], ["a=["], ["a=1", "a=2"]])
def test_other_settings_are_refused(settings):
    with pytest.raises(RecipeError, match=f"--set {settings[-1][:1]}"):
        parse_settings(settings)


def test_every_shipped_sweep_compares_to_one_of_its_variants():
    for name in shipped_sweeps():
        sweep = read_sweep(SHIPPED / f"{name}.yaml")
        assert sweep.baseline in sweep.variants
