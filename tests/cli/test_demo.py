"""`quiesce demo`: one float network, three ways from it, one table."""

import json
from pathlib import Path

import pytest

import quiesce.cli.demo as demo
from quiesce.cli import INTERRUPTED, main
from quiesce.recipes.reading import read_recipe


@pytest.fixture
def quick_demo(tiny_flags, monkeypatch):
    """The demo with its recipes cut down to tiny made-up images."""

    def quick(recipe, flags):
        return read_recipe(recipe, [*tiny_flags, "--float_stage.epochs=1", *flags])

    monkeypatch.setattr(demo, "read_recipe", quick)


def test_the_three_networks_start_from_one_float_network(quick_demo, tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", "--run", str(folder), "--seed", "3"]) == 0
    kinds = ("lsq", "dampen", "freeze")
    runs = {kind: json.loads((folder / kind / "summary.json").read_text()) for kind in kinds}
    assert {run["seed"] for run in runs.values()} == {3}
    for what in ("float", "rounded"):
        assert len({run["top1_percent"][what] for run in runs.values()}) == 1
    assert ["float_stage" in run["seconds"] for run in runs.values()] == [True, False, False]
    out = capsys.readouterr().out
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    expected = ["float", "rounded, untrained", "LSQ", "dampening", "freezing"]
    assert [row for row in rows if row in expected] == expected
    assert str(folder) in out
    last = out.splitlines()[-1]
    assert last.startswith(f"{folder / 'freeze' / 'model.onnx'}, verified: ")
    assert "right in ONNX Runtime" in last


def test_a_second_demo_takes_the_next_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    begun = []

    def begin(recipe, _):
        begun.append(recipe.folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", begin)
    assert main(["demo"]) == INTERRUPTED
    assert begun == [Path("runs", "demo-2", "lsq")]


def test_its_recipes_differ_in_nothing_but_the_cure(tmp_path):
    first, *others = demo.recipes(tmp_path, seed=0)
    for other in others:
        tree = other.tree()
        assert tree.pop("cure") != first.tree()["cure"]
        expected = first.tree()
        del expected["cure"]
        for changed in ("name", "run", "model", "float_stage"):
            del tree[changed], expected[changed]
        assert tree == expected
