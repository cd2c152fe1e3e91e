"""`quiesce probe RUN`: its table, and a run in which nothing oscillates."""

import json
import shutil

import pytest

from quiesce.cli import main
from quiesce.cli.probe import nothing_to_probe
from support.tiny import FOUR_BITS, OSCILLATING

QUICK = ["--samples=2", "--batches=2", "--steps=3"]


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained(*OSCILLATING), tmp_path / "run")


def test_the_table_shows_what_the_file_holds(finished, capsys):
    assert main(["probe", str(finished), *QUICK]) == 0
    out = capsys.readouterr().out
    tree = json.loads((finished / "probe.json").read_text())
    assert f"{tree['weights']} oscillating weights" in out
    loss, top1 = tree["sampled"]["loss"], tree["sampled"]["top1_percent"]
    assert f"{loss['mean']:.4f} ± {loss['std']:.4f}" in out
    assert f"{top1['best']:.2f}" in out
    assert f"learned, {tree['learned']['changed']} codes changed" in out
    assert f"{tree['learned']['loss']:.4f}" in out
    assert str(finished / "probe.json") in out


def test_a_run_of_two_steps_is_too_short_to_tell(trained, tmp_path, capsys):
    folder = shutil.copytree(trained(*FOUR_BITS), tmp_path / "run")
    assert main(["probe", str(folder)]) == 0
    out = capsys.readouterr().out
    tree = json.loads((folder / "probe.json").read_text())
    assert f"{tree['step']} of {3 / tree['momentum']:.0f}" in out
    assert "oscillates (" not in out
    assert (tree["weights"], tree["sampled"], tree["learned"]) == (0, None, None)


def test_a_long_run_without_oscillating_weights_says_so(tmp_path):
    text = nothing_to_probe({"step": 300, "momentum": 0.01}, tmp_path)
    assert f"{tmp_path} oscillates (frequency above 0.005)" in text


def test_a_number_out_of_range_is_one_line(finished, refused):
    assert "`samples` must be at least 1, got 0" in refused("probe", finished, "--samples=0")


def test_json_is_the_content_of_the_file(finished, capsys):
    assert main(["probe", str(finished), *QUICK, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "probe.json").read_text())
