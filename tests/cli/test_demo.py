"""`quiesce demo`: one float network, three ways from it side by side, one table."""

import json
from pathlib import Path

import pytest

import quiesce.cli.demo as demo
from quiesce.cli import main
from quiesce.sweeps.plan import plan
from quiesce.sweeps.sweep import SHIPPED, read_sweep
from support.engines import InProcess


@pytest.fixture
def quick_demo(tiny_flags, monkeypatch):
    """The demo with its recipes cut down to tiny made-up images."""
    monkeypatch.setattr(demo, "LocalEngine", InProcess)
    monkeypatch.setattr(demo, "plan", lambda sweep: plan(sweep, tiny_flags))


@pytest.mark.slow
def test_the_three_networks_start_from_one_float_network(quick_demo, tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", "--run", str(folder), "--seed", "3"]) == 0
    kinds = ("lsq", "dampening", "freezing")
    runs = {k: json.loads((folder / f"{k}-seed3" / "summary.json").read_text()) for k in kinds}
    assert {run["seed"] for run in runs.values()} == {3}
    for what in ("float", "rounded"):
        assert len({run["top1_percent"][what] for run in runs.values()}) == 1
    assert len(list(folder.glob("float/*/float.safetensors"))) == 1
    out, err = capsys.readouterr()
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    expected = ["float", "rounded, untrained", "LSQ", "dampening", "freezing"]
    assert [row for row in rows if row in expected] == expected
    assert str(folder) in out
    last = out.splitlines()[-1]
    assert last.startswith(f"{folder / 'freezing-seed3' / 'model.onnx'}, verified: ")
    for kind in kinds:
        assert f"{kind}-seed3: top-1" in err


def test_a_second_demo_takes_the_next_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert demo._free(Path("runs", "demo")) == Path("runs", "demo-2")


def test_a_run_that_fails_is_one_line(quick_demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        demo, "plan", lambda sweep: plan(sweep, [f"--data.folder={tmp_path}", "--data.name=folder"])
    )
    assert main(["demo", "--run", str(tmp_path / "demo")]) == 2
    err = capsys.readouterr().err
    assert "float-seed0" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_its_recipes_differ_in_nothing_but_the_cure():
    trees = [run.recipe.tree() for run in demo.planned(seed=0)]
    cures = [(tree.pop("name"), tree.pop("cure"))[1] for tree in trees]
    assert trees[0] == trees[1] == trees[2]
    assert len({str(cure) for cure in cures}) == 3
    assert trees[0]["lr_schedule"]["kind"] == "constant"


@pytest.mark.parametrize(
    ("lsq", "freezing", "said"),
    [
        (95.3, 97.0, "Oscillation costs accuracy here"),
        (96.3, 96.9, "1,000 test images are too few"),
        (97.5, 97.0, "cost no accuracy"),
    ],
)
def test_the_verdict_follows_from_the_numbers(lsq, freezing, said):
    def summary(top1):
        return {"train_loss": 0.1, "top1_percent": {"trained": top1}}

    line = demo.verdict(
        {"LSQ": summary(lsq), "dampening": summary(90.0), "freezing": summary(freezing)},
        images=1000,
    )
    assert said in line
    assert f"{lsq}" in line
    assert f"{freezing}" in line


def test_the_demo_is_a_sweep_too():
    assert read_sweep(SHIPPED / "demo.yaml").baseline == "lsq"
