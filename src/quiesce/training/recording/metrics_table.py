"""Writes metrics.csv: the values that a Trainer logs, in one table with fixed columns.

Lightning's CSVLogger removes an existing file, and rewrites it when a column is added. This logger
only appends rows, so a resumed run continues in the same file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from quiesce.run_folder.csv_table import CsvTable
from quiesce.run_folder.folder import METRICS

COLUMNS = (
    *("step", "epoch", "loss", "epoch_loss", "top1_percent"),
    *("oscillating", "frozen", "flips_per_step", "lr", "cure"),
)
"""All columns."""


class MetricsTable(Logger):
    """Writes metrics.csv."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.table = CsvTable(folder / METRICS, COLUMNS)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty version: a run has only one."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; raise a KeyError for a metric without a column."""
        if unknown := sorted(set(metrics) - set(COLUMNS)):
            raise KeyError(f"{METRICS} has no column {unknown[0]!r}; add it to COLUMNS")
        row = {**metrics, "step": step}
        self.table.add([[row.get(column) for column in COLUMNS]])

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing, because recipe.yaml holds the hyperparameters."""
