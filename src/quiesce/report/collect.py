"""From folders to what the page is about: finds the runs, names and groups them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quiesce.errors import RecipeError
from quiesce.files.untrusted.typed_values import count, file_name, maybe, number, text
from quiesce.report.reading.files import read_json, reading
from quiesce.report.reading.run import RECIPE, SUMMARY, read_run
from quiesce.report.run_data import Group, Run, Subject
from quiesce.run_folder.file_names import DIAGNOSIS, LAYERS

SWEEP = "sweep.json"

Fields = tuple[tuple[str, object], ...]
"""Names and values of what a sweep set."""


def collect(folders: Sequence[Path]) -> Subject:
    """Read what a page is to be about.

    Args:
        folders: Run folders; or one sweep; or folders whose sub-folders are runs.

    Raises:
        RecipeError: A folder is no run, or a file in it is damaged or too new.
    """
    if len(folders) == 1 and (tree := read_json(folders[0] / SWEEP)) is not None:
        return _sweep(folders[0], tree)
    found = [run for folder in folders for run in _runs_in(folder)]
    title = (
        found[0].resolve().name
        if len(found) == 1
        else ", ".join(folder.resolve().name for folder in folders)
    )
    return Subject(title=title, groups=group(named(found)))


def _runs_in(folder: Path) -> list[Path]:
    if not folder.exists():
        raise RecipeError(f"{folder}: no such folder; name a run, which `quiesce train` makes")
    if _is_run(folder):
        return [folder]
    if folder.is_dir() and (runs := sorted(each for each in folder.iterdir() if _is_run(each))):
        return runs
    raise RecipeError(
        f"{folder} is no run folder: it has neither {RECIPE} nor {SUMMARY}; "
        "name one that `quiesce train` or quiesce.record has made"
    )


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECIPE, SUMMARY, DIAGNOSIS, LAYERS))


def named(folders: Iterable[Path]) -> list[Run]:
    """Read runs, each with the shortest end of its path that no other has."""
    given = {folder.resolve(): folder for folder in folders}
    runs = []
    for path, folder in given.items():
        others = [other.parts[::-1] for other in given if other != path]
        parts = path.parts[::-1]
        ends = (parts[:n] for n in range(1, len(parts) + 1))
        own = next(end for end in ends if end not in {other[: len(end)] for other in others})
        runs.append(read_run(folder, "/".join(reversed(own))))
    return runs


def group(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Put runs together that differ in nothing but the seed, in the order of their first."""
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


def _sweep(folder: Path, tree: dict[str, Any]) -> Subject:
    """One group for each setting of the sweep, in its order; what has not begun is missing."""
    members: dict[tuple[str, Fields], list[Run]] = {}
    missing = []
    with reading(folder / SWEEP):
        swept = tuple(map(text, tree["set"]))
        for planned in tree["runs"]:
            fields = tuple((name, _value(value)) for name, value in planned["fields"].items())
            setting = (str(planned.get("variant", "")), fields)
            path = folder / file_name(planned["folder"])
            if _is_run(path):
                run = replace(read_run(path, path.name), seed=maybe(count, planned["seed"]))
                members.setdefault(setting, []).append(run)
            else:
                missing.append(path.name)
    if not members:
        raise RecipeError(f"{folder}: none of the sweep's {len(missing)} runs has begun")
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
    return Subject(title=title, groups=groups, swept=swept, missing=tuple(missing))


def _value(value: object) -> object:
    """What a sweep set, as a number where it is one, else as a word."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number(value)  # one that no axis holds is refused
        return value
    return value if value is None or isinstance(value, str | bool) else json.dumps(value)


def _setting(variant: str, fields: Fields) -> str:
    values = [f"{'.'.join(name.split('.')[-2:])} = {value}" for name, value in fields]
    return ", ".join([variant, *values] if variant else values)
