"""A sweep: a recipe, named variants of it, a grid of fields, and seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiesce.errors import RecipeError
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.yaml_and_json import parse_yaml
from quiesce.recipes.reading import checked_fields, load_yaml

SHIPPED = Path(__file__).parent / "shipped"
"""Folder of the sweeps that quiesce includes."""

VERSION = 1
"""Version of the format of sweep files."""

MOST_RUNS = 10_000
"""Maximum number of runs of a sweep; planning ten fields with ten values each would not end."""

NOT_SWEPT = {
    "seed": "--seeds sweeps it",
    "run": "-o names the folder",
    "name": "runs get their own",
}
"""Recipe fields that a grid must not contain, and the reason."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One run for each combination of variant, grid point and seed."""

    name: str
    """Name of the sweep; its default folder is runs/<name>."""
    recipe: str
    """Name of a shipped recipe, or path of a YAML file."""
    seeds: tuple[int, ...] = (0,)
    """Distinct seeds, each 0 or more."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Maps a name to changed dotted fields: {"cosine": {"cure.strength.schedule": "cosine"}}. The
    field `recipe` selects another base recipe. The name becomes the name of the variant's recipe.
    """
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Maps dotted fields to their values."""
    baseline: str | None = None
    """Default baseline of `quiesce compare`: the name of a variant or recipe."""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or self.name != Path(self.name).name:
            raise ValueError(f"`name` must be a word without slashes, got {self.name!r:.60}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must be 0 or more, without repeats, got {list(self.seeds)}")
        points = math.prod(map(len, self.grid.values()))
        runs = len(self.seeds) * max(1, len(self.variants)) * points
        if runs > MOST_RUNS:
            raise ValueError(f"a sweep has at most {MOST_RUNS:,} runs, got {runs:,}")
        for name in self.variants:
            if not name or name != Path(name).name:
                raise ValueError(f"`variants` must have names without slashes, got {name!r}")
        for changes in (self.grid, *self.variants.values()):
            for each in NOT_SWEPT.keys() & changes.keys():
                raise ValueError(f"`{each}` cannot be set in a sweep: {NOT_SWEPT[each]}")
        for each, values in self.grid.items():
            if not values or any(values.count(value) > 1 for value in values):
                raise ValueError(f"`{each}` must have values, without repeats, got {values}")


def shipped_sweeps() -> list[str]:
    """Return the names of the sweeps that quiesce includes, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_sweep(name: str) -> Path | None:
    """Return the file of a shipped sweep, or of a path to one; None if it may be a recipe."""
    if name in shipped_sweeps():
        return SHIPPED / f"{name}.yaml"
    path = in_home(name)
    return path if path.is_file() and "recipe" in _load(path) else None


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        RecipeError: It is not YAML, has an unknown field, a wrong type or a wrong value.
    """
    tree = {"name": path.stem, **_load(path)}
    version = tree.pop("version", VERSION)
    if version != VERSION:
        raise RecipeError(f"{path}: `version` must be {VERSION} for this quiesce, got {version}")
    if "seeds" in tree:
        tree["seeds"] = _seeds(tree["seeds"], f"{path}: ")
    try:
        return Sweep(**checked_fields(Sweep, tree, str(path)))
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{path}: {error}") from error


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a command-line value: "5" is 0 to 4, "3,7-9" is 3, 7, 8 and 9.

    Raises:
        RecipeError: It is neither.
    """
    if text.strip().isdecimal():
        return _seeds(int(text), "--seeds: ")
    seeds: list[int] = []
    for part in text.rstrip(", ").split(","):
        first, dash, last = map(str.strip, part.partition("-"))
        ends = (first, last if dash else first)
        if not all(map(str.isdecimal, ends)) or int(ends[1]) - int(ends[0]) >= MOST_RUNS:
            raise RecipeError(
                f"--seeds: `seeds` must be how many, or a list such as 3,7 or 0-9, got {text!r:.60}"
            )
        seeds += range(int(ends[0]), int(ends[1]) + 1)
    return _seeds(seeds, "--seeds: ")


def parse_settings(settings: Sequence[str]) -> dict[str, list[Any]]:
    """Return the grid of command-line settings: ["cure.strength.end=0.1,0.2"].

    Values are YAML; put lists and texts with a comma in brackets or quotes.

    Raises:
        RecipeError: A setting is not field=value,value, or a field occurs twice.
    """
    grid = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set {setting}: must be field=value,value...")
        if name in grid:
            raise RecipeError(f"--set {setting}: {name} is set twice; give all values at once")
        grid[name] = _values(text, f"--set {setting}: ")
    return grid


def _values(text: str, where: str) -> list[Any]:
    try:
        return parse_yaml(f"[{text}]")
    except ValueError as error:
        raise RecipeError(f"{where}not valid YAML: {text}") from error


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if type(value) is int and 1 <= value <= MOST_RUNS:
        return tuple(range(value))
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return tuple(value)
    raise RecipeError(
        f"{where}`seeds` must be a number of seeds, at least 1, or a list such as [0, 7] (on the "
        f"command line 0,7; seed 0 alone is 0-0), got {value!r:.60}"
    )


def _load(path: Path) -> dict[str, Any]:
    tree = load_yaml(path)
    return tree if isinstance(tree, dict) else {}
