"""Works on a study until all its tries are made, and writes the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quiesce.errors import QuiesceError
from quiesce.extras import require
from quiesce.sweeps.engines.engine import Engine
from quiesce.sweeps.sweep_folder import SweepFolder
from quiesce.tuning.claims import Claims
from quiesce.tuning.folder import CLAIMS, study_folder
from quiesce.tuning.results import write_results
from quiesce.tuning.settings import REPORTED, Settings, met_seeds
from quiesce.tuning.storage import default_storage, explained, open_storage
from quiesce.tuning.study import Opened, open_study
from quiesce.tuning.tries import Tries
from quiesce.tuning.tuner import Tuner


def work(
    settings: Settings,
    folder: Path,
    name: str,
    storage: str | None,
    engine: Engine,
    tell: Callable[[str], object],
) -> Opened:
    """Make the tries of a study that are missing; see `quiesce.tune`.

    Args:
        settings: The settings of the study.
        folder: The folder of the runs.
        name: Name of the study in its storage.
        storage: URL of the storage; None means a file in the folder.
        engine: The engine that trains the runs.
        tell: Called with a line about each try that ends, and with warnings.
    """
    if warning := met_seeds(settings.seeds, REPORTED):
        tell(f"warning: {warning}")
    claims = Claims(folder / CLAIMS)
    with _calm(), study_folder(folder, settings) as known:
        url = storage or default_storage(folder)
        with explained(url):
            opened = open_study(name, open_storage(url), settings)
            tries = Tries(opened, known.id, claims)
            tuner = Tuner(settings, tries, SweepFolder(folder), claims, tell)
            try:
                engine.run([], tuner.ended, tuner.more)
            except QuiesceError:
                opened.remove_if_new()
                raise
            finally:
                claims.free_all()
            write_results(opened, folder)
    return opened


@contextmanager
def _calm() -> Iterator[None]:
    """Show only errors of Optuna in the block."""
    logs: Any = require("optuna.logging", "`quiesce tune`", "tune")
    before = logs.get_verbosity()
    logs.set_verbosity(logs.ERROR)
    try:
        yield
    finally:
        logs.set_verbosity(before)
