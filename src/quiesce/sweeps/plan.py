"""Turns a sweep into runs: every recipe is built and checked before a run starts."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from quiesce.comparison.recipe_fields import shortened
from quiesce.errors import RecipeError
from quiesce.recipes.reading import change_recipe, read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.sweeps.sweep import Sweep

LONGEST = 120
"""Maximum length of a folder name in characters; a longer one is cut and ends in a digest."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    """Name of its folder, inside the folder of the sweep."""
    variant: str | None
    """Name of its variant; empty if the sweep has none."""
    fields: dict[str, Any]
    """Maps the dotted fields of the grid to their values."""
    recipe: Recipe
    """Its recipe; `run` and the shared float network are filled in when the run starts."""


def plan(sweep: Sweep, flags: Sequence[str] = ()) -> list[PlannedRun]:
    """Return the runs of a sweep: all runs of the first seed, then all of the next.

    Args:
        flags: Flags that override the recipes before variants and grid: ["--data.folder",
            "/pictures"].

    Raises:
        RecipeError: A recipe does not exist, or combinations are invalid; the message holds every
            reason, each with the first combination that causes it.
    """
    recipes: list[tuple[str | None, dict[str, Any], Recipe]] = []
    refused: dict[str, list[str]] = {}
    for variant, changes in (sweep.variants or {None: {}}).items():
        own = {key: value for key, value in changes.items() if key != "recipe"}
        base = read_recipe(str(changes.get("recipe", sweep.recipe)), flags)
        for values in product(*sweep.grid.values()):
            fields = dict(zip(sweep.grid, values, strict=True))
            where = ", ".join([variant or base.name, *(f"{k}={v}" for k, v in fields.items())])
            name = {"name": variant or base.name}
            try:
                recipe = change_recipe(base, {**own, **fields, **name}, where)
                recipes.append((variant, fields, recipe))
            except RecipeError as error:
                reason = str(error).removeprefix(where).lstrip(": ")
                refused.setdefault(reason, []).append(where)
    if refused:
        raise RecipeError(_all_told(refused, len(recipes)))
    runs = [
        PlannedRun(
            name=_folder_name(recipe.name, fields, seed),
            variant=variant,
            fields=fields,
            recipe=replace(recipe, seed=seed, run=None),
        )
        for seed in sweep.seeds
        for variant, fields, recipe in recipes
    ]
    if len({run.name for run in runs}) < len(runs):  # 0.1 and "0.1" are the same to a recipe
        raise RecipeError("two combinations of the sweep are the same; give each value once")
    return runs


def float_key(recipe: Recipe) -> str | None:
    """Return a key of the float network of a run: equal for equal float stages.

    It is None if the recipe trains no float network.
    """
    if recipe.float_stage.epochs is None:
        return None
    tree = recipe.tree()
    read = {name: tree[name] for name in ("data", "model", "float_stage", "lr_schedule", "trainer")}
    read["lr_schedule"] = asdict(recipe.float_stage.lr_schedule(recipe.lr_schedule))
    for unread in ("max_epochs", "max_steps", "log_every_n_steps", "loggers"):
        del read["trainer"][unread]  # make_trainer sets them itself for a stage without logs
    return f"seed{recipe.seed}-{_digest(json.dumps(read, sort_keys=True))}"


def _all_told(refused: dict[str, list[str]], good: int) -> str:
    bad = sum(map(len, refused.values()))
    told = []
    for reason, (first, *others) in refused.items():
        told.append(f"{reason} ({first}{f' and {len(others)} more' if others else ''})")
    return f"{bad} of {bad + good} combinations are refused: {'; '.join(told)}"


def _folder_name(name: str, fields: dict[str, Any], seed: int) -> str:
    short = shortened(fields)
    raw = "-".join([name, *(f"{short[field]}={value}" for field, value in fields.items())])
    plain = re.sub(r"[^\w.=+-]+", "_", raw)
    if plain != raw or len(plain) > LONGEST:
        plain = f"{plain[:LONGEST]}-{_digest(repr((name, fields)))}"
    return f"{plain}-seed{seed}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
