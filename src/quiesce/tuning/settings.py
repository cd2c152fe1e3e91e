"""The settings of a study, checked: the recipe, the search space, the goals and the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quiesce.errors import RecipeError, did_you_mean
from quiesce.files.untrusted.typed_trees import with_lists
from quiesce.recipes.reading import change_recipe, read_recipe
from quiesce.recipes.recipe import Recipe
from quiesce.sweeps.plan import PlannedRun
from quiesce.tuning.goals import ACCURACIES, Goal, read_goals
from quiesce.tuning.samplers import PRUNERS, SAMPLERS, points
from quiesce.tuning.search import Space, read_space

REPORTED = tuple(range(10))
"""The seeds that `quiesce tune` proposes for the final runs."""

SEEDS = (100, 101, 102)
"""The default seeds of a try; none of them is reported."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a study."""

    base: Recipe
    """The recipe, with the seed and the run folder left at their defaults."""
    space: Space
    goals: tuple[Goal, ...]
    seeds: tuple[int, ...]
    """Each try trains one run for each seed."""
    tries: int
    """Number of tries of the whole study, by all its workers."""
    sampler: str
    pruner: str | None

    def recipe(self, fields: Mapping[str, Any], where: str) -> Recipe:
        """Return the recipe of a try.

        Raises:
            RecipeError: The values do not fit together.
        """
        return change_recipe(self.base, fields, where)

    def runs(self, number: int, fields: Mapping[str, Any]) -> list[PlannedRun]:
        """Return the runs of a try, in the order of the seeds; errors as in `recipe`."""
        recipe = self.recipe(fields, f"try {number}")
        return [
            PlannedRun(
                name=f"try-{number}-seed{seed}",
                variant=None,
                fields=dict(fields),
                recipe=replace(recipe, seed=seed),
            )
            for seed in self.seeds
        ]

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same in all calls that continue a study, as JSON."""
        return {
            "recipe": self.base.tree(),
            "search": {field: str(each.distribution()) for field, each in self.space.items()},
            "metrics": list(map(str, self.goals)),
            "seeds": with_lists(self.seeds),
        }


def read_settings(
    recipe: str,
    search: Mapping[str, str | Sequence[Any]],
    *,
    metrics: Sequence[str],
    tries: int,
    seeds: Sequence[int],
    sampler: str,
    pruner: str | None,
    flags: Sequence[str],
) -> Settings:
    """Return checked settings; see `quiesce.tune` for the arguments.

    Raises:
        RecipeError: A setting cannot be used.
    """
    base = replace(read_recipe(recipe, flags), seed=0, run=None)
    space, goals = read_space(search, base), read_goals(metrics, base)
    if tries < 1:
        raise RecipeError(f"--tries must be 1 or more, got {tries}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RecipeError(f"--seeds must be 0 or more, each once, got {list(seeds)}")
    if sampler not in SAMPLERS:
        raise _unknown("--sampler", sampler, SAMPLERS)
    if pruner is not None:
        _refuse_pruner(pruner, goals, base)
    return Settings(
        base=base,
        space=space,
        goals=goals,
        seeds=tuple(seeds),
        tries=min(tries, points(sampler, space) or tries),
        sampler=sampler,
        pruner=pruner,
    )


def _refuse_pruner(pruner: str, goals: Sequence[Goal], base: Recipe) -> None:
    if pruner not in PRUNERS:
        raise _unknown("--pruner", pruner, PRUNERS)
    if len(goals) > 1:
        raise RecipeError("--pruner compares tries by one number, and there are several --metric")
    if goals[0].key not in ACCURACIES or goals[0].direction != "maximize":
        raise RecipeError(
            f"--pruner stops tries by their test accuracy, which says little about --metric "
            f"{goals[0]}; leave it out, or use --metric {' or '.join(ACCURACIES)}"
        )
    if "csv" not in base.trainer.loggers:
        raise RecipeError("--pruner reads metrics.csv: trainer.loggers must contain csv")


def _unknown(flag: str, name: str, known: Sequence[str]) -> RecipeError:
    hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
    return RecipeError(f"{flag} {name}: unknown; {hint}")


def met_seeds(seeds: Sequence[int], reported: Sequence[int]) -> str | None:
    """Return a warning if runs would be reported on seeds that a study has tuned on."""
    if not (met := sorted(set(seeds) & set(reported))):
        return None
    return (
        f"the study chooses its best try on seeds {', '.join(map(str, met))}, which would also be "
        "reported; numbers on them look better than they are: use other seeds for one of the two"
    )
