"""What a study optimizes: numbers of summary.json, and whether more or less is better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from quiesce.comparison.measures import LARGEST, MEASURES
from quiesce.errors import RecipeError, did_you_mean
from quiesce.recipes.recipe import Recipe
from quiesce.run_folder.contents import Summary

ACCURACIES = ("pre_bn", "post_bn", "corrected")
"""Goals that the test accuracy of an epoch foretells."""

_READERS: dict[str, Callable[[Summary], float | None]] = {
    **{measure.key: measure.read for measure in MEASURES},
    "size_bytes": lambda summary: summary.size_bytes,
}
_MORE = (*ACCURACIES, "metric")
_DIRECTIONS = {"min": "minimize", "max": "maximize"}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A number to maximize or to minimize."""

    key: str
    """Name of the number, as in the CSV files of `quiesce compare`, or size_bytes."""
    direction: Literal["minimize", "maximize"]

    def of(self, summary: Summary) -> float | None:
        """Return the number of a run; None if it was not measured, or is not finite."""
        found = _READERS[self.key](summary)
        return None if found is None or not abs(found) < LARGEST else float(found)

    def text(self, value: float) -> str:
        """Return the number for people."""
        return f"{value:,.0f}" if self.key == "size_bytes" else f"{value:.4g}"

    def __str__(self) -> str:
        return f"{self.key}:{self.direction[:3]}"


def read_goals(names: Sequence[str], recipe: Recipe) -> tuple[Goal, ...]:
    """Return goals by their names: "post_bn", or with a direction, "metric:min".

    Args:
        names: At least one name. By default, accuracies and scores are maximized, all others
            minimized.
        recipe: The recipe that is tuned.

    Raises:
        RecipeError: There is no such number, a name occurs twice, or the recipe does not measure
            it.
    """
    goals = []
    for name in names:
        key, colon, direction = name.partition(":")
        if key not in _READERS:
            hint = did_you_mean(key, _READERS) or f"metrics: {', '.join(_READERS)}"
            raise RecipeError(f"--metric {name}: unknown metric {key!r}; {hint}")
        if colon and direction not in _DIRECTIONS:
            raise RecipeError(f"--metric {name}: must end in :min or :max")
        chosen = _DIRECTIONS[direction] if colon else _DIRECTIONS["max" if key in _MORE else "min"]
        goals.append(Goal(key=key, direction=chosen))  # type: ignore[arg-type]
    if not goals or len({goal.key for goal in goals}) < len(goals):
        raise RecipeError(f"--metric: give one or more, each once, got {', '.join(names)}")
    unmeasured = {
        "post_bn": recipe.batchnorm.batches is None and "batchnorm.batches",
        "corrected": recipe.cure.correction_batches is None and "cure.correction_batches",
        "metric": recipe.metric is None and "metric",
    }
    for goal in goals:
        if field := unmeasured.get(goal.key):
            raise RecipeError(
                f"--metric {goal.key} is not measured: `{field}` of {recipe.name} is null"
            )
    return tuple(goals)
