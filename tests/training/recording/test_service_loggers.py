"""Runs that log to services, with the real packages, offline."""

import json
import sqlite3
import sys

import pytest

from quiesce.errors import MissingExtraError, RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.training import stages
from quiesce.training.recording.service_loggers import ServiceLogger
from quiesce.training.run import resume, run
from support.messages import tells

QUICK = "mnist_freeze_w3a3"
STEPS = 4


def recipe(tiny_flags, folder, *loggers, **fields):
    fields = {"run": folder, "trainer.max_steps": STEPS, "checkpoint.every": 1, **fields}
    flags = [f"--trainer.loggers=[{','.join(loggers)}]"]
    flags += [f"--{name}={value}" for name, value in fields.items()]
    return read_recipe(QUICK, [*tiny_flags, *flags])


class Stop(Exception):
    """Raised in the middle of a training, which then goes on from a checkpoint."""


@pytest.fixture
def stopped_and_resumed(tiny_flags, tmp_path, monkeypatch):
    """Trains with a logger, stops after two steps, goes on; gives the folder."""

    def train(logger):
        monkeypatch.chdir(tmp_path)  # services keep their files in the current folder
        folder = tmp_path / "run"
        log = ServiceLogger.log_metrics

        def stopping(self, metrics, step=None):
            log(self, metrics, step)
            if step == STEPS // 2:
                raise Stop

        made = recipe(tiny_flags, folder, "csv", logger)
        with monkeypatch.context() as patch:
            patch.setattr(ServiceLogger, "log_metrics", stopping)
            with pytest.raises(Stop):
                run(made)
        resume(folder)
        return folder

    return train


@pytest.mark.slow
def test_wandb(stopped_and_resumed, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = stopped_and_resumed("wandb")
    name = json.loads((folder / "loggers.json").read_text())["wandb"]
    runs = sorted((folder.parent / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(runs) == 2  # the service joins both parts of a run
    assert all(b"oscillating" in path.read_bytes() for path in runs)
    assert any(b"weights_optimizer" in path.read_bytes() for path in runs)


@pytest.mark.slow
def test_trackio(stopped_and_resumed, monkeypatch, tmp_path, capsys):
    pytest.importorskip("trackio", reason="needs the extra trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", "tests")
    folder = stopped_and_resumed("trackio")
    name = json.loads((folder / "loggers.json").read_text())["trackio"]
    logs = sqlite_storage.SQLiteStorage.get_logs("tests", name)
    assert {entry["step"] for entry in logs} >= set(range(STEPS))
    assert any("oscillating" in entry for entry in logs)
    assert sqlite_storage.SQLiteStorage.get_run_config("tests", name)["name"] == QUICK
    assert "Trackio" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow(stopped_and_resumed, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = stopped_and_resumed("mlflow")
    name = json.loads((folder / "loggers.json").read_text())["mlflow"]
    database = sqlite3.connect(folder.parent / "mlflow.db")
    runs = database.execute("select run_uuid, name from runs").fetchall()
    steps = database.execute("select distinct step from metrics where key = 'loss'").fetchall()
    parameters = dict(database.execute("select key, value from params").fetchall())
    database.close()
    assert runs == [(name, "run")]
    assert {step for (step,) in steps} >= set(range(STEPS))
    assert parameters["scheme/weight_bits"] == "3"


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_its_extra(kind, tiny_flags, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    made = recipe(tiny_flags, tmp_path / "run", kind)
    with pytest.raises(MissingExtraError, match=rf"pip install 'quiesce\[{kind}\]'"):
        run(made)
    assert not (tmp_path / "run").exists()


def test_a_service_that_can_not_be_used_is_one_line_before_training(
    tiny_flags, tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setattr(stages, "fit", lambda *_: pytest.fail("it trained"))
    made = recipe(tiny_flags, tmp_path / "run", "wandb", **{"float_stage.epochs": 1})
    with pytest.raises(RecipeError) as raised:
        run(made)
    assert tells(str(raised.value), "trainer.loggers", "wandb", "No API key configured")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_of_names_is_one_line(tmp_path):
    pytest.importorskip("trackio", reason="needs the extra trackio")
    (tmp_path / "loggers.json").write_text("{")
    with pytest.raises(RecipeError, match=r"loggers\.json is damaged"):
        ServiceLogger("trackio", tmp_path).begin({})
