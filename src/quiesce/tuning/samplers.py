"""Samplers, which choose the next try, and pruners, which stop a try early, by their names."""

from __future__ import annotations

import math
from typing import Any

from quiesce.errors import RecipeError
from quiesce.extras import require
from quiesce.tuning.search import Space

SAMPLERS = ("tpe", "random", "grid", "qmc", "nsgaii", "gp")
PRUNERS = ("median", "halving")


def make_sampler(name: str, space: Space, number: int) -> Any:
    """Return the sampler for one try.

    Each try has a sampler with a seed of its own, its number. So a study that was interrupted makes
    the same tries as one that was not, and two workers never draw the same numbers.

    Args:
        name: One of `SAMPLERS`.
        space: The search space.
        number: The number of the try.
    """
    samplers: Any = require("optuna.samplers", "`quiesce tune`", "tune")
    if name == "grid":
        return samplers.GridSampler({field: each.finite() for field, each in space.items()}, seed=0)
    if name == "qmc":  # one sequence for all tries; its first point does not know the space
        independent = samplers.RandomSampler(seed=number)
        return samplers.QMCSampler(
            scramble=True, seed=0, independent_sampler=independent, warn_independent_sampling=False
        )
    kinds = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "nsgaii": samplers.NSGAIISampler,
        "gp": samplers.GPSampler,
    }
    return kinds[name](seed=number)


def make_pruner(name: str | None) -> Any:
    """Return the pruner of a name in `PRUNERS`, or for None one that stops nothing."""
    pruners: Any = require("optuna.pruners", "`quiesce tune`", "tune")
    kinds = {
        None: pruners.NopPruner,
        "median": pruners.MedianPruner,
        "halving": pruners.SuccessiveHalvingPruner,
    }
    return kinds[name]()


def points(name: str, space: Space) -> int | None:
    """Return the number of points of a grid; None for other samplers, which never end.

    Raises:
        RecipeError: A field has too many values for a grid.
    """
    if name != "grid":
        return None
    counts = []
    for field, each in space.items():
        if (values := each.finite()) is None:
            raise RecipeError(
                f"--sampler grid: {field} has any number of values; list them ({field}=a,b,c), or "
                "give whole numbers: int:LO:HI"
            )
        counts.append(len(values))
    return math.prod(counts)
