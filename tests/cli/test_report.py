"""`quiesce report`: the command, and its bad input."""

import builtins
import json
import shutil
import sys

import pytest

from quiesce.cli import main
from support.made_runs import make_run
from support.messages import tells


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_a_page_is_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("report.html (")
    assert err == ""
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_time_measures_the_exported_network(trained, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run = tmp_path / "run"
    shutil.copytree(trained("mnist_lsq_w3a3"), run)
    output = tmp_path / "report.html"
    assert main(["report", str(run), "-o", str(output), "--time"]) == 0
    shipped = json.loads((run / "shipped.json").read_text("utf-8"))
    assert 0 < shipped["bytes"] < shipped["float_bytes"]
    assert min(shipped["milliseconds"], shipped["float_milliseconds"]) > 0
    assert "ONNX Runtime" in shipped["timed_on"]
    assert f"{shipped['milliseconds']:.3g} ms an image" in output.read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "report.html"}
    assert str(run) in capsys.readouterr().out


def test_a_run_that_cannot_be_measured_is_named_and_the_page_is_written(run, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main(["report", str(run), "-o", str(output), "--time"]) == 1
    assert str(run) in capsys.readouterr().err
    assert "Not measured" in output.read_text("utf-8")
    assert not (run / "shipped.json").exists()


def test_force_writes_over_an_earlier_page(run, tmp_path):
    output = tmp_path / "page.html"
    output.write_text("earlier")
    assert main(["report", str(run), "-o", str(output), "--force"]) == 0
    assert "earlier" != output.read_text("utf-8")


def test_a_report_that_exists(run, refused, tmp_path):
    (tmp_path / "page.html").write_text("mine")
    told = refused("report", run, "-o", tmp_path / "page.html")
    assert "page.html exists already" in told


def test_an_output_that_is_a_folder(run, refused, tmp_path):
    assert "is a folder" in refused("report", run, "-o", tmp_path, "--force")


def test_an_output_folder_that_does_not_exist(run, refused, tmp_path):
    told = refused("report", run, "-o", tmp_path / "no" / "page.html")
    assert f"there is no folder {tmp_path / 'no'}" in told


def test_a_folder_that_is_not_there(refused, tmp_path):
    told = refused("report", tmp_path / "no")
    assert f"{tmp_path / 'no'} is not a run folder: there is no such folder" in told


def test_a_folder_that_is_no_run(refused, tmp_path):
    (tmp_path / "notes").mkdir()
    told = refused("report", tmp_path / "notes")
    assert tells(told, "notes", "recipe.yaml")


def test_no_run_at_all(refused):
    assert "see `quiesce report --help`" in refused("report")


@pytest.mark.parametrize("file", ["summary.json", "diagnosis.json", "probe.json", "recipe.yaml"])
def test_a_newer_version(file, run, refused):
    (run / file).write_text(json.dumps({"version": 99}))
    told = refused("report", run)
    assert f"{file} was written by a newer version" in told
    assert "its format has version 99" in told


FILES = (
    "summary.json", "diagnosis.json", "probe.json", "recipe.yaml", "metrics.csv", "layers.csv",
    "batchnorm.csv", "batchnorm_loss.csv", "trajectories.npz",
)  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(file, run, refused):
    (run / file).write_text('step,layer,kl_mean,"kind\n{1\n')
    told = refused("report", run)
    assert f"{file} is damaged: " in told
    assert "write it again, or remove it" in told


def test_a_damaged_sweep(refused, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"version": 1, "set": {}}')
    assert "sweep.json is damaged: Object missing required field `runs`" in refused(
        "report", tmp_path / "sweep"
    )


@pytest.mark.parametrize("package", ["plotly", "jinja2", "numpy", "yaml"])
def test_the_missing_extra_is_named_with_its_install(package, run, refused, monkeypatch):
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    true_import = builtins.__import__

    def absent(name, *rest):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("quiesce.extras.import_module", absent)
    told = refused("report", run)
    assert tells(told, "`quiesce report`", "pip install 'quiesce[report]'")
