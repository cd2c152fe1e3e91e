"""What a study leaves in its folder: the best recipe, or the Pareto front as a table and a page."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quiesce.extras import require
from quiesce.recipes.reading import write_recipe
from quiesce.run_folder.folder import write_text
from quiesce.tuning.settings import Settings
from quiesce.tuning.study import Opened

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BASE, BEST, PARETO = "base.yaml", "best.yaml", "pareto.html"
"""Files in the folder of a study: the recipe that is tuned, the recipe or the sweep of the best
tries, and the picture of the Pareto front."""

MOST_DRAWN = 3
"""Maximum number of metrics in a picture."""


def write_results(opened: Opened, folder: Path) -> None:
    """Write best.yaml, and with several metrics pareto.html, if a try is complete."""
    study, settings = opened.study(), opened.settings
    best = best_tries(study)
    if not best:
        return
    text = (
        _recipe(settings, best[0]) if len(settings.goals) == 1 else _sweep(settings, best, folder)
    )
    about = "\n".join(f"# {line}" for line in (opened.name, *(told(settings, t) for t in best)))
    write_text(folder / BEST, f"{about}\n{text}")
    if 1 < len(settings.goals) <= MOST_DRAWN:
        write_text(folder / PARETO, _picture(study, settings))


def best_tries(study: Study) -> list[FrozenTrial]:
    """Return the best try, or with several metrics the tries of the Pareto front.

    The first try wins between equals.
    """
    done = [each for each in study.get_trials(deepcopy=False) if each.state.name == "COMPLETE"]
    if not done:
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def told(settings: Settings, trial: FrozenTrial) -> str:
    """Return a try as one line: its number, its values, and its fields."""
    values = zip(settings.goals, trial.values or (), strict=True)
    numbers = ", ".join(f"{goal.key} {goal.text(value)}" for goal, value in values)
    fields = ", ".join(f"{name}={value}" for name, value in trial.params.items())
    return f"try {trial.number}: {numbers} ({fields})"


def importances(opened: Opened) -> dict[str, dict[str, float]]:
    """Return for each metric the importance of each field, from 0 to 1, the largest first.

    It is empty as long as Optuna cannot tell: with less than two complete tries, or equal values.
    """
    optuna: Any = require("optuna.importance", "`quiesce tune`", "tune")
    study, found = opened.study(), {}
    for i, goal in enumerate(opened.settings.goals):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental parts
            try:
                found[goal.key] = optuna.get_param_importances(
                    study, target=lambda trial, i=i: trial.values[i]
                )
            except (ValueError, RuntimeError):
                return {}
    return {metric: shares for metric, shares in found.items() if shares}


def _fields(settings: Settings, trial: FrozenTrial) -> dict[str, Any]:
    return {name: settings.space[name].value(value) for name, value in trial.params.items()}


def _recipe(settings: Settings, trial: FrozenTrial) -> str:
    """Return the recipe of a try."""
    recipe = settings.recipe(_fields(settings, trial), f"try {trial.number}")
    return write_recipe(replace(recipe, name=f"{recipe.name}-best"))


def _sweep(settings: Settings, trials: Sequence[FrozenTrial], folder: Path) -> str:
    """Return a sweep with a variant for each try."""
    tree = {
        "version": 1,
        "recipe": str((folder / BASE).absolute()),
        "variants": {f"try-{trial.number}": _fields(settings, trial) for trial in trials},
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _picture(study: Study, settings: Settings) -> str:
    """Return a page with all complete tries, the Pareto front among them."""
    require("plotly", "the picture of the Pareto front", "tune")
    drawing: Any = require("optuna.visualization", "`quiesce tune`", "tune")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = drawing.plot_pareto_front(study, target_names=[g.key for g in settings.goals])
    return figure.to_html(include_plotlyjs=True)
