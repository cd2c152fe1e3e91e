"""From folders to finished runs: run folders themselves, sweeps, and folders that hold runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiesce.comparison.measures import MEASURES
from quiesce.errors import RecipeError
from quiesce.files.untrusted import csv_rows, typed_values, yaml_and_json
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.run_folder.folder import RECIPE, SUMMARY

SWEEP = "sweep.json"
"""In the folder of a sweep: its runs."""

METRICS = "metrics.csv"

VERSION = 1
"""Newest version of recipe.yaml, summary.json and sweep.json that is understood here."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a finished run was told to do, and what it measured."""

    folder: Path
    """Where its files are."""

    recipe: dict[str, Any]
    """Content of recipe.yaml."""

    summary: dict[str, Any]
    """Content of summary.json."""

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return str(self.summary["name"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.summary["seed"])


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """What some folders hold."""

    finished: list[FinishedRun] = field(default_factory=list)
    """Runs that can be compared, in the order in which they were named."""

    left_out: dict[Path, str] = field(default_factory=dict)
    """Run folders that can not, and why: cut off, or planned by a sweep and not there yet."""

    baselines: list[str] = field(default_factory=list)
    """What each sweep among the folders says to compare to."""


def find_runs(folders: Iterable[Path]) -> FoundRuns:
    """Read run folders, each once, however often it is named.

    Args:
        folders: Run folders; folders of sweeps; folders whose own folders are runs, as
            `quiesce demo` makes.

    Raises:
        RecipeError: A folder is none of these, or a file in it is damaged or of a newer version.
    """
    found = FoundRuns()
    seen = set()
    for folder in folders:
        for run in _run_folders(folder, found.baselines):
            if run.resolve() in seen:
                continue
            seen.add(run.resolve())
            if (run / SUMMARY).is_file():
                found.finished.append(read_run(run))
            else:
                found.left_out[run] = _how_far(run)
    return found


def read_run(folder: Path) -> FinishedRun:
    """Read the folder of one finished run.

    Raises:
        RecipeError: A file is missing, damaged, or of a newer version.
    """
    recipe = _tree(folder / RECIPE, yaml_and_json.read_yaml)
    summary = read_json(folder / SUMMARY)
    for key in ("name", "seed", "top1_percent", "train_loss", "oscillation"):
        if key not in summary:
            raise RecipeError(f"{folder / SUMMARY} is not a summary: it has no `{key}`")
    try:
        typed_values.text(summary["name"])
        typed_values.count(summary["seed"])
        for measure in MEASURES:
            measure.of(summary)
    except ValueError as error:
        raise RecipeError(f"{folder / SUMMARY} is damaged: {error}") from error
    try:
        data = typed_values.mapping(recipe.get("data") or {})
        typed_values.maybe(typed_values.text, data.get("folder"))
    except ValueError as error:
        raise RecipeError(f"{folder / RECIPE} is damaged: data: {error}") from error
    return FinishedRun(folder=folder, recipe=recipe, summary=summary)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that quiesce wrote.

    Raises:
        RecipeError: It is missing, damaged, or of a newer version.
    """
    return _tree(path, yaml_and_json.read_json)


def _run_folders(folder: Path, baselines: list[str]) -> Iterator[Path]:
    if (folder / RECIPE).is_file():
        yield folder
    elif (folder / SWEEP).is_file():
        sweep = read_json(folder / SWEEP)
        baselines += filter(None, [sweep.get("baseline")])
        try:
            yield from [folder / typed_values.file_name(run["folder"]) for run in sweep["runs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{folder / SWEEP} is damaged: it lists no runs") from error
    else:
        inside = sorted(path.parent for path in folder.glob(f"*/{RECIPE}"))
        if not inside:
            what = f"it has no {RECIPE}" if folder.is_dir() else "there is no such folder"
            raise RecipeError(f"{folder} is no run folder: {what}; `quiesce train` makes one")
        yield from inside


def _tree(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        tree = read(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} can not be read: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is damaged: it holds no fields")
    version = tree.get("version", VERSION)
    if not isinstance(version, int):
        raise RecipeError(f"{path} is damaged: its version is {version!r:.40}")
    refuse_newer(str(path), version, VERSION)
    return tree


def _how_far(folder: Path) -> str:
    """Why a run without a summary is left out, with the last step that it logged."""
    if not folder.is_dir():
        return "not run yet"
    try:
        last = max(int(row["step"]) for row in csv_rows.read_rows(folder / METRICS))
        return f"cut off after step {last + 1}"
    except (OSError, KeyError, TypeError, ValueError):  # no metrics yet, or half a line of them
        return "cut off"
