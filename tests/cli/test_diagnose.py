"""`quiesce diagnose RUN`: its tables, and each kind of run that is none."""

import json
import shutil

import pytest
import torch

from quiesce.cli import main
from quiesce.cli.show_diagnosis import bars, short, shortened
from quiesce.diagnosis.offsets import Histogram
from support.messages import tells
from support.tiny import OSCILLATING


@pytest.fixture
def copied(trained, tmp_path):
    """A finished run that a test may change."""
    return shutil.copytree(trained(*OSCILLATING), tmp_path / "copied")


def test_the_tables_read_at_eighty_columns(copied, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["diagnose", str(copied)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(copied) not in line) <= 80
    assert "…" not in out  # no number and no name of this network is cut
    tree = json.loads((copied / "diagnosis.json").read_text())
    for layer in tree["layers"]:
        assert sum(line.startswith(f"{layer['name']} ") for line in lines) == 2
    (row,) = [line.split() for line in lines if line.startswith("blocks.1.depthwise.0 depth")]
    layer = next(each for each in tree["layers"] if each["name"] == "blocks.1.depthwise.0")
    assert row[2:4] == [str(layer["weights"]), "3"]
    assert row[4] == f"{100 * layer['oscillating']:.2f}"
    assert str(copied / "diagnosis.json") in out


def test_batch_norm_and_accuracy_stand_before_and_after(copied, capsys):
    assert main(["diagnose", str(copied)]) == 0
    out = capsys.readouterr().out
    accuracy = json.loads((copied / "diagnosis.json").read_text())["accuracy"]
    for kind, word in (("running", "running"), ("reestimated", "re-estimated")):
        row = next(line.split() for line in out.splitlines() if line.startswith(f"{word} "))
        assert row[1:] == [
            f"{accuracy['top1_percent'][kind]:.2f}",
            f"{accuracy['train_loss'][kind]:.4f}",
        ]
    assert "depth-wise" in out
    assert "mean and maximum" in out


def test_a_checkpoint_and_its_recipe_do_without_a_folder(trained, capsys, tmp_path):
    run = trained(*OSCILLATING)
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "mine.ckpt")
    argv = ["diagnose", str(tmp_path / "mine.ckpt"), "--recipe", str(run / "recipe.yaml")]
    assert main(argv) == 0
    assert "blocks.0.depthwise.0" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ckpt"]


def test_an_older_diagnosis_is_replaced(copied, capsys):
    (copied / "diagnosis.json").write_text("{}")
    assert main(["diagnose", str(copied)]) == 0
    assert json.loads((copied / "diagnosis.json").read_text())["version"] == 1


def test_a_run_cut_off_in_the_middle_is_told_as_far_as_it_went(copied, capsys):
    for name in ("summary.json", "network.safetensors", "diagnosis.json"):
        (copied / name).unlink()
    assert main(["diagnose", str(copied)]) == 0
    out = capsys.readouterr().out
    assert f"{copied} is not finished: " in out
    assert json.loads((copied / "diagnosis.json").read_text())["finished"] is False


def test_a_network_without_batch_norm_says_so(copied, capsys):
    assert main(["diagnose", str(copied), "--batchnorm.batches=null"]) == 0
    out = capsys.readouterr().out
    assert "batch norm is not measured" in out
    assert "mean and maximum" not in out


@pytest.mark.parametrize("command", ["diagnose", "probe"])
class TestRefused:
    """One line, exit code 2, nothing changed."""

    def test_a_folder_that_is_no_run(self, command, refused, tmp_path):
        (tmp_path / "empty").mkdir()
        told = refused(command, tmp_path / "empty")
        assert tells(told, tmp_path / "empty", "recipe.yaml")
        assert "there is no such folder" in refused(command, tmp_path / "nowhere")

    def test_a_run_cut_off_before_its_first_checkpoint(self, command, copied, refused):
        shutil.rmtree(copied / "checkpoints")
        told = refused(command, copied)
        assert f"{copied} has no checkpoints/last.ckpt" in told

    @pytest.mark.parametrize("name", ["recipe.yaml", "summary.json"])
    def test_a_run_from_a_newer_format_version(self, command, name, copied, refused):
        path = copied / name
        text = path.read_text().replace("version: 1", "version: 2\nnewer: 1", 1)
        path.write_text(text.replace('"version": 1', '"version": 2', 1))
        told = refused(command, copied)
        assert str(path) in told
        assert "its format has version 2" in told
        assert "reads versions up to 1; update quiesce" in told

    def test_a_tracker_from_a_newer_format_version(self, command, copied, refused):
        path = copied / "checkpoints" / "last.ckpt"
        content = torch.load(path, weights_only=True)
        content["callbacks"]["RecipeCallback"]["version"] = 9
        torch.save(content, path)
        assert "its format has version 9" in refused(command, copied)

    def test_a_damaged_checkpoint(self, command, copied, refused):
        path = copied / "checkpoints" / "last.ckpt"
        path.write_bytes(path.read_bytes()[:3000])
        assert f"{path} is damaged or cut off" in refused(command, copied)

    def test_a_damaged_summary(self, command, copied, refused):
        (copied / "summary.json").write_text("{")
        assert "summary.json is damaged" in refused(command, copied)

    def test_a_checkpoint_with_other_bits_than_the_recipe(self, command, copied, refused):
        told = refused(command, copied, "--scheme.weight_bits=5")
        assert "prepare it with the scheme of the checkpoint" in told

    def test_a_checkpoint_of_another_network_than_the_recipe(self, command, copied, refused):
        told = refused(command, copied, "--model.name=resnet18")
        assert "quantized layers" in told

    def test_a_checkpoint_without_a_recipe(self, command, copied, refused):
        told = refused(command, copied / "checkpoints" / "last.ckpt")
        assert "a checkpoint needs its recipe: --recipe" in told

    def test_a_run_must_be_named(self, command, refused):
        assert "the following arguments are required: RUN" in refused(command)


def test_a_histogram_is_a_line_of_blocks():
    edges = tuple(i / 6 for i in range(7))
    assert bars(Histogram(edges=edges, counts=(1, 0, 4, 4, 0, 0))) == "▁█ "
    assert bars(Histogram(edges=edges, counts=(0,) * 6)) == "   "


def test_a_long_name_loses_its_middle():
    assert shortened("blocks.0.depthwise.0") == "blocks.0.depthwise.0"
    name = shortened("features.10.block.expansion.conv_dw")
    assert len(name) == 20
    assert name.startswith("featur")
    assert name.endswith("conv_dw")


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.50"), (999.0, "999.00"), (54321.5, "54322")])
def test_large_numbers_lose_their_decimals(value, text):
    assert short(value) == text


def test_json_is_the_content_of_the_file(copied, capsys):
    assert main(["diagnose", str(copied), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree == json.loads((copied / "diagnosis.json").read_text())
