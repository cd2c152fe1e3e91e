"""The search space: the fields of a recipe that are searched, and the values that each may take."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from quiesce.errors import RecipeError
from quiesce.extras import require
from quiesce.files.untrusted.yaml_and_json import parse_yaml
from quiesce.recipes.reading import change_recipe, number_kind
from quiesce.recipes.recipe import Recipe
from quiesce.sweeps.sweep import NOT_SWEPT

MOST_CHECKED = 1_000
"""Maximum number of combinations of choices that are checked before the first try."""

_KIND = re.compile(r"(log|int):(.*)")
_ENDS = re.compile(r"([^:]+):([^:]+)")


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers between two ends."""

    low: float
    high: float
    log: bool = False
    """Whether every factor is equally likely, and not every difference."""
    whole: bool = False
    """Whether only whole numbers are tried."""

    def distribution(self) -> Any:
        """Return the distribution of Optuna."""
        optuna: Any = require("optuna.distributions", "`quiesce tune`", "tune")
        if self.whole:
            return optuna.IntDistribution(int(self.low), int(self.high), log=self.log)
        return optuna.FloatDistribution(self.low, self.high, log=self.log)

    def value(self, suggested: Any) -> Any:
        """Return the value of the field for what Optuna suggests."""
        return suggested

    def examples(self) -> list[Any]:
        """Return both ends."""
        return [int(end) if self.whole else end for end in (self.low, self.high)]

    def finite(self) -> list[Any] | None:
        """Return all values as Optuna names them; None if there are too many."""
        return list(range(int(self.low), int(self.high) + 1)) if self.whole else None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Some values of any type."""

    values: tuple[Any, ...]

    def distribution(self) -> Any:
        """Return the distribution of Optuna."""
        optuna: Any = require("optuna.distributions", "`quiesce tune`", "tune")
        return optuna.CategoricalDistribution(self.finite())

    def value(self, suggested: Any) -> Any:
        """Return the value of the field for what Optuna suggests."""
        return self.values[self.finite().index(suggested)]

    def examples(self) -> list[Any]:
        """Return all values."""
        return list(self.values)

    def finite(self) -> list[Any]:
        """Return all values as Optuna names them: lists and mappings as JSON text."""
        return [json.dumps(v) if isinstance(v, list | dict) else v for v in self.values]


Space = dict[str, Range | Choice]
"""Maps dotted fields to their values."""


def parse_searches(settings: Sequence[str]) -> dict[str, str]:
    """Return the texts of command-line settings by field: ["cure.threshold.end=log:0.001:0.1"].

    Raises:
        RecipeError: A setting is not field=values, or a field occurs twice.
    """
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name or not text:
            raise RecipeError(f"--search {setting}: {_FORMS}")
        if name in texts:
            raise RecipeError(f"--search {setting}: {name} is searched twice")
        texts[name] = text
    return texts


def read_space(search: Mapping[str, str | Sequence[Any]], base: Recipe) -> Space:
    """Return the search space, after building the recipes at its ends.

    Args:
        search: Maps dotted fields to a list of values, or to a text: "LO:HI", "log:LO:HI",
            "int:LO:HI" or "a,b,c".
        base: The recipe whose fields are searched.

    Raises:
        RecipeError: A field does not exist, is no number although a range is given, or refuses a
            value; a range is empty, or logarithmic and reaches 0; or there is nothing to search.
    """
    if not search:
        raise RecipeError(f"nothing to search: give --search, {_FORMS}")
    space: Space = {}
    for field, values in search.items():
        given = values if isinstance(values, str) else ",".join(map(str, values))
        where = f"--search {field}={given}"
        if field in NOT_SWEPT:
            raise RecipeError(f"{where}: `{field}` cannot be searched: {NOT_SWEPT[field]}")
        space[field] = _read(field, values, where)
        for value in space[field].examples():
            change_recipe(base, {field: value}, where)
    _refuse_combinations(space, base)
    return space


_FORMS = "such as --search cure.threshold.end=log:0.001:0.1 (or LO:HI, int:LO:HI, a,b,c)"


def _read(field: str, values: str | Sequence[Any], where: str) -> Range | Choice:
    if isinstance(values, str):
        kind, ends = _split(values)
        if kind or (ends and all(map(_is_number, ends))):
            return _range(field, kind, ends, where)
        try:
            values = parse_yaml(f"[{values}]")
        except ValueError as error:
            raise RecipeError(f"{where}: not valid YAML: {values}") from error
    values = list(values)
    if len(values) < 2 or any(values.count(value) > 1 for value in values):
        raise RecipeError(f"{where}: give two values or more, each once, or a range LO:HI")
    choice = Choice(values=tuple(values))
    if len(set(map(repr, choice.finite()))) < len(values):
        raise RecipeError(f"{where}: two values have the same text")
    return choice


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a range, or "", and its ends, if it has two."""
    kind = _KIND.fullmatch(text)
    ends = _ENDS.fullmatch(kind[2] if kind else text)
    return kind[1] if kind else "", ends.groups() if ends else ()


def _range(field: str, kind: str, ends: Sequence[str], where: str) -> Range:
    takes = number_kind(field, where)
    if takes is None:
        raise RecipeError(f"{where}: `{field}` is not a number; list its values: {field}=a,b,c")
    if len(ends) != 2 or not all(map(_is_number, ends)):
        raise RecipeError(f"{where}: the ends must be two numbers, LO:HI")
    low, high = map(float, ends)
    whole = kind == "int" or takes is int
    if whole and not (low.is_integer() and high.is_integer()):
        raise RecipeError(f"{where}: the ends must be whole numbers")
    if not low < high:
        raise RecipeError(f"{where}: the range is empty: {ends[0]} is not below {ends[1]}")
    if kind == "log" and low <= 0:
        raise RecipeError(f"{where}: a logarithmic range must begin above 0, got {ends[0]}")
    return Range(low=low, high=high, log=kind == "log", whole=whole)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _refuse_combinations(space: Space, base: Recipe) -> None:
    """Refuse a space in which choices, or the ends of ranges, do not fit together."""
    combinations = product(*(each.examples() for each in space.values()))
    for values in islice(combinations, MOST_CHECKED):
        fields = dict(zip(space, values, strict=True))
        where = "--search: " + ", ".join(f"{name}={value}" for name, value in fields.items())
        change_recipe(base, fields, where)
