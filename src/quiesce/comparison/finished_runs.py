"""Finds the runs to compare in run folders, sweeps, and folders of runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from quiesce.comparison.measures import MEASURES
from quiesce.files.untrusted import csv_rows
from quiesce.run_folder.contents import SweepFile
from quiesce.run_folder.folder import METRICS, RECIPE, SUMMARY, SWEEP, no_run
from quiesce.run_folder.reading import RunFiles, is_run, read_json, read_run, reading, runs_in


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """The runs in some folders."""

    finished: list[RunFiles] = field(default_factory=list)
    """Runs that can be compared, in the order of the folders."""
    left_out: dict[Path, str] = field(default_factory=dict)
    """Folders of the other runs, and the reason: interrupted, or not started."""
    baselines: list[str] = field(default_factory=list)
    """The baselines of the sweeps."""


def find_runs(folders: Iterable[Path]) -> FoundRuns:
    """Read the runs in some folders, each run once.

    Args:
        folders: Run folders, folders of sweeps, or folders of runs such as those of `quiesce demo`.

    Raises:
        RecipeError: A folder holds no run, or a file in it is damaged or of a newer version.
    """
    found = FoundRuns()
    runs: dict[Path, Path] = {}
    for folder in folders:
        for run in _run_folders(folder, found.baselines):
            runs.setdefault(run.resolve(), run)
    for run in runs.values():
        if (run / SUMMARY).is_file():
            found.finished.append(_read_finished(run))
        else:
            found.left_out[run] = _how_far(run)
    return found


def _run_folders(folder: Path, baselines: list[str]) -> list[Path]:
    if is_run(folder) or not (folder / SWEEP).is_file():
        return runs_in(folder)
    sweep = read_json(folder / SWEEP, SweepFile)
    baselines += [sweep.baseline] if sweep.baseline else []
    return [folder / run.folder for run in sweep.runs]


def _read_finished(folder: Path) -> RunFiles:
    if not (folder / RECIPE).is_file():
        raise no_run(folder, RECIPE)
    run = read_run(folder)
    with reading(folder / SUMMARY):
        for measure in MEASURES:
            measure.of(run)
    return run


def _how_far(folder: Path) -> str:
    """Return why a run without a summary is left out, and the last step in its metrics."""
    if not folder.is_dir():
        return "not run yet"
    try:
        last = max(int(row["step"]) for row in csv_rows.read_rows(folder / METRICS))
        return f"cut off after step {last + 1}"
    except (OSError, KeyError, ValueError):  # no row yet
        return "cut off"
