"""Groups runs that differ only in their seed, and labels groups by the fields that differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiesce.comparison.measures import Measure
from quiesce.comparison.recipe_fields import dotted, shortened
from quiesce.comparison.same_data import data_of, differing_field
from quiesce.errors import RecipeError, did_you_mean
from quiesce.run_folder.reading import RunFiles

NOT_THE_METHOD = {
    "version",
    "name",  # compared separately
    "seed",
    "run",
    "data.workers",
    "data.check_up_to",
    "trainer.log_every_n_steps",
    "trainer.loggers",
}
"""Fields of a recipe that do not affect the results, besides those of `recording`."""

FILE = "(a file)"
"""Replaces the path of a file of initial weights, because each seed has its own."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ only in their seed."""

    label: str
    """Name of the recipe, with the fields in which other groups of this name differ."""
    name: str
    """Name of the recipe."""
    fields: dict[str, Any]
    """Maps the dotted fields in the label to their values."""
    runs: dict[int, RunFiles]
    """Maps seeds to runs."""

    def values(self, measure: Measure) -> dict[int, float]:
        """Return a mapping from seed to number, for the runs that measured it."""
        found = {seed: measure.of(run) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def group_runs(runs: Sequence[RunFiles]) -> list[Group]:
    """Group runs by recipe in their order; raise a RecipeError for two runs with the same seed."""
    recipes: list[tuple[str, dict[str, Any]]] = []
    seeds: list[dict[int, RunFiles]] = []
    for run in runs:
        recipe = (run.name, dict(_method(run.tree)))
        if recipe not in recipes:
            recipes.append(recipe)
            seeds.append({})
        same = seeds[recipes.index(recipe)]
        seed = run.seed or 0
        if seed in same:
            raise RecipeError(
                f"{same[seed].folder} and {run.folder} have the same recipe and seed {seed}: leave "
                "one out"
            )
        same[seed] = run
    groups = []
    for (name, method), same in zip(recipes, seeds, strict=True):
        fields = _differing(method, [other for its, other in recipes if its == name])
        short = shortened(fields)
        label = " ".join([name, *(f"{short[field]}={value}" for field, value in fields.items())])
        groups.append(Group(label=label, name=name, fields=fields, runs=same))
    return groups


def _differing(method: dict[str, Any], methods: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of `method` that differ among `methods`."""
    known = dict.fromkeys(field for each in methods for field in each)
    return {
        field: method.get(field)
        for field in known
        if any(each.get(field) != method.get(field) for each in methods)
    }


def find_group(groups: Sequence[Group], name: str) -> Group:
    """Return the group with a label, or the only one with a recipe name, or raise a RecipeError."""
    if found := [group for group in groups if group.label == name]:
        return found[0]
    labels = [group.label for group in groups]
    found = [group for group in groups if group.name == name]
    if len(found) > 1:
        several = ", ".join(repr(group.label) for group in found)
        raise RecipeError(f"the baseline {name!r} is several recipes; name one of {several}")
    if not found:
        hint = did_you_mean(name, labels) or f"recipes here: {', '.join(labels)}"
        raise RecipeError(f"no run has the baseline's name {name!r}; {hint}")
    return found[0]


def refuse_mixed_data(runs: Sequence[RunFiles]) -> None:
    """Raise a RecipeError if two runs have different test images."""
    for run in runs[1:]:
        first, this = data_of(runs[0].recipe.data), data_of(run.recipe.data)
        if (field := differing_field(first, this)) is not None:
            raise RecipeError(
                f"runs of different data: data.{field} is {first[field]} in {runs[0].folder} and "
                f"{this[field]} in {run.folder}; compare them separately, or add --mixed-data"
            )


def _method(recipe: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted field and value of everything that decides a run, except for its seed."""
    for field, value in dotted(recipe):
        if field in NOT_THE_METHOD or field.startswith("recording."):
            continue
        if field == "model.weights" and Path(str(value)).suffix:
            value = FILE
        yield field, value
