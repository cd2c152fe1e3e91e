"""`quiesce targets` and `quiesce export --target`."""

import json

import pytest

from quiesce.cli import main
from quiesce.export.targets.catalog import TARGETS, target_named
from quiesce.export.targets.target import Package
from support.messages import tells
from support.tiny import FOUR_BITS


@pytest.fixture(scope="session")
def run_folder(trained):
    return trained(*FOUR_BITS)


def test_every_target_is_listed_with_the_line_that_installs_it(capsys, monkeypatch) -> None:
    monkeypatch.setattr(Package, "installed", property(lambda self: None))
    assert main(["targets"]) == 0
    out = capsys.readouterr().out
    for name in TARGETS:
        target = target_named(name)
        assert tells(out, f"{name}: {target.what}", target.takes, target.install)


def test_versions_are_shown_and_judged(capsys, monkeypatch) -> None:
    monkeypatch.setattr(Package, "installed", property(lambda self: "0.0.7"))
    assert main(["targets", "--target", "qonnx"]) == 0
    assert tells(capsys.readouterr().out, "qonnx 0.0.7", "untested", "qonnx 1.0")


def test_json_has_a_row_for_every_target(capsys) -> None:
    assert main(["targets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["targets"]
    assert [row["target"] for row in rows] == list(TARGETS)
    for row in rows:
        assert row["installed"] == (None not in row["packages"].values())
        assert row["packages"].keys() == row["tested"].keys()


def test_a_recipe_is_checked_before_it_is_trained(tiny_flags, capsys) -> None:
    asked = ["targets", "--check", "mnist_lsq_w4a4", "--target", "qonnx", *tiny_flags]
    assert main([*asked, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["targets"]
    assert row["refusals"] == []
    assert main(asked) == 0
    assert "takes the network" in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_gets_the_options_of_onnx(run_folder, tmp_path, capsys) -> None:
    path = tmp_path / "model.onnx"
    asked = ["export", str(run_folder), "-o", str(path), "--target", "onnx", "--pack", "int4"]
    assert main([*asked, "--no-verify"]) == 0
    assert tells(capsys.readouterr().out, path, "for onnx", "not verified")
    assert path.is_file()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--target", "qonx"], ["qonx", "qonnx"]),
        (["--target", "onnx", "--format", "npz"], ["--target", "--format"]),
        (["--target", "qonnx", "--pack", "int4"], ["--pack", "onnx", "qonnx"]),
        (["--allow-differences", "0.1"], ["--allow-differences", "--target"]),
        (["--target", "onnx", "--allow-differences", "3"], ["allow_differences", "0 to 1", "3"]),
    ],
    ids=lambda given: " ".join(given),
)
def test_flags_that_do_not_go_together_are_refused(run_folder, refused, flags, parts) -> None:
    assert tells(refused("export", run_folder, "-o", "model", *flags), *parts)


def test_a_flag_of_a_recipe_needs_one(refused) -> None:
    assert tells(refused("targets", "--scheme.act_bits=8"), "--scheme.act_bits=8")


def test_a_missing_package_is_named_before_the_run_is_read(refused, monkeypatch) -> None:
    monkeypatch.setattr(Package, "installed", property(lambda self: None))
    line = refused("export", "nowhere", "-o", "model", "--target", "qonnx")
    assert tells(line, "qonnx", "pip install 'quiesce[qonnx]'")
