"""Loggers for Weights & Biases, MLflow and Trackio.

A run continues in the same run of the service: loggers.json in the run folder keeps its name there.
Project, server, folder and offline mode are those of the service's own environment variables, such
as WANDB_MODE and MLFLOW_TRACKING_URI, and its usual files in the current folder otherwise.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from msgspec import DecodeError, ValidationError, json

from quiesce.errors import RecipeError, first_line
from quiesce.extras import require
from quiesce.files.atomic import write_beside
from quiesce.parallel.processes import raised_together
from quiesce.run_folder.folder import LOGGERS

PROJECT = "quiesce"
"""Project in the service, unless its environment variable names another."""


class ServiceLogger(Logger):
    """Logs to a service, from the first use on. An error of the service is one line.

    Args:
        kind: Name of the service: wandb, mlflow or trackio.
        folder: The run folder.

    Raises:
        MissingExtraError: The package of the service is not installed.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__()
        require(kind, f"trainer.loggers {kind}", kind)
        self.kind = kind
        self._folder = folder
        self._made: Logger | None = None

    @property
    def name(self) -> str:
        """Name of the logger."""
        return self.kind

    @property
    def version(self) -> str:
        """Name of the run in the service, or an empty text before it began."""
        return "" if self._made is None else str(self._made.version)

    @rank_zero_only
    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Begin or continue the run in the service, and store the fields of the recipe there.

        Raises:
            RecipeError: The service cannot be used.
        """
        path = self._folder / LOGGERS
        names = _names(path)
        with self._one_line():
            self._made = _MAKERS[self.kind](self._folder, names.get(self.kind), dict(recipe))
        if self.version != names.get(self.kind):
            content = json.encode({**names, self.kind: self.version})
            write_beside(path, lambda beside: beside.write_bytes(content))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers of a step."""
        if self._made is not None:
            with self._one_line():
                self._made.log_metrics(dict(metrics), step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: `begin` stores the recipe."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run in the service."""
        if self._made is not None:
            with self._one_line():
                self._made.finalize(status)
                if isinstance(self._made, WandbLogger):  # it would continue in the next run
                    self._made.experiment.finish(exit_code=int(status != "success"))
            self._made = None

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the services raise many kinds
            raise RecipeError(f"trainer.loggers: {self.kind}: {first_line(error)}") from error


class TrackioLogger(Logger):
    """Logs to Trackio, which keeps runs in a folder of its own (TRACKIO_DIR).

    Args:
        folder: The run folder.
        name: Name of the run in Trackio; None begins a run.
        recipe: Fields of the recipe.
    """

    def __init__(self, folder: Path, name: str | None, recipe: dict[str, Any]) -> None:
        super().__init__()
        self._trackio = require("trackio", "trainer.loggers trackio", "trackio")
        with redirect_stdout(StringIO()):  # it tells how to show its page
            self.run = self._trackio.init(
                os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=name or f"{folder.name}-{os.urandom(4).hex()}",
                config=recipe,
                resume="must" if name else "never",
                embed=False,
            )

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "trackio"

    @property
    def version(self) -> str:
        """Name of the run."""
        return self.run.name

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        self.run.log(metrics, step=step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run has the fields of the recipe."""

    def finalize(self, status: str) -> None:
        """Write what is left."""
        with redirect_stdout(StringIO()):
            self._trackio.finish()


def begin_services(trainer: Trainer, recipe: Mapping[str, Any]) -> None:
    """Begin the run in all services of a Trainer, before anything is trained.

    Raises:
        RecipeError: A service cannot be used; raised in all processes.
    """
    with raised_together():
        for logger in trainer.loggers:
            if isinstance(logger, ServiceLogger):
                logger.begin(recipe)


def _wandb(folder: Path, name: str | None, recipe: dict[str, Any]) -> Logger:
    import wandb

    logger = WandbLogger(
        name=folder.name,
        save_dir=os.environ.get("WANDB_DIR", "."),  # not the run folder: it makes links
        id=name,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        settings=wandb.Settings(console="off"),
    )
    logger.log_hyperparams(recipe)
    return logger


def _mlflow(folder: Path, name: str | None, recipe: dict[str, Any]) -> Logger:
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=folder.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        run_id=name,
    )
    logger.log_hyperparams(recipe)
    return logger


_MAKERS: dict[str, Callable[[Path, str | None, dict[str, Any]], Logger]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": TrackioLogger,
}
SERVICES = tuple(_MAKERS)


def _names(path: Path) -> dict[str, str]:
    """Return the name of the run in each service.

    Raises:
        RecipeError: The file is damaged.
    """
    try:
        return json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (DecodeError, ValidationError) as error:
        raise RecipeError(
            f"{path} is damaged ({first_line(error)}); remove it to start new runs"
        ) from error
