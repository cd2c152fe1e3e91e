"""Finds, names and groups the runs of a page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from quiesce.comparison.recipe_fields import shortened
from quiesce.errors import RecipeError
from quiesce.report.reading.run import page_run
from quiesce.report.run_data import Group, Run, Subject
from quiesce.run_folder.contents import SweepFile
from quiesce.run_folder.folder import SWEEP
from quiesce.run_folder.reading import is_run, maybe_read, runs_in

Fields = tuple[tuple[str, object], ...]
"""Names and values of the fields that a sweep set."""


def collect(folders: Sequence[Path]) -> Subject:
    """Read the runs in run folders, in one sweep, or in folders whose sub-folders are runs."""
    if len(folders) == 1 and (sweep := maybe_read(folders[0] / SWEEP, SweepFile)) is not None:
        return _sweep(folders[0], sweep)
    found = [run for folder in folders for run in runs_in(folder)]
    named_after = found if len(found) == 1 else folders
    title = ", ".join(folder.resolve().name for folder in named_after)
    return Subject(title=title, groups=group(named(found)))


def named(folders: Iterable[Path]) -> list[Run]:
    """Read runs, and name each by the shortest unique end of its path."""
    given = {str(folder.resolve()): folder for folder in folders}
    names = shortened(given, separator="/")
    return [page_run(folder, names[path]) for path, folder in given.items()]


def group(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Group runs that differ only in the seed, in the order of the first run of each group."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.settings, []).append(run)
    names = [same[0].recipe for same in members.values()]
    return tuple(
        Group(
            label=same[0].title if len(same) == 1 or names.count(name) > 1 else name,
            runs=tuple(same),
        )
        for name, same in zip(names, members.values(), strict=True)
    )


def _sweep(folder: Path, sweep: SweepFile) -> Subject:
    """Return one group for each setting of the sweep, in the order of the sweep."""
    members: dict[tuple[str, Fields], list[Run]] = {}
    missing = []
    for planned in sweep.runs:
        fields = tuple((name, _value(value)) for name, value in planned.fields.items())
        path = folder / planned.folder
        if is_run(path):
            run = replace(page_run(path, path.name), seed=planned.seed)
            members.setdefault((planned.variant or "", fields), []).append(run)
        else:
            missing.append(path.name)
    if not members:
        raise RecipeError(f"{folder}: none of the {len(missing)} runs of the sweep has started")
    several = len({variant for variant, _ in members}) > 1
    groups = tuple(
        Group(
            label=_setting(variant if several or not fields else "", fields) or runs[0].recipe,
            runs=tuple(runs),
            variant=variant,
            fields=dict(fields),
        )
        for (variant, fields), runs in members.items()
    )
    title = folder.resolve().name
    return Subject(title=title, groups=groups, swept=tuple(sweep.set), missing=tuple(missing))


def _value(value: object) -> object:
    """Return a value of the sweep as a number if possible, else as text."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _setting(variant: str, fields: Fields) -> str:
    values = [f"{'.'.join(name.split('.')[-2:])} = {value}" for name, value in fields]
    return ", ".join([variant, *values] if variant else values)
