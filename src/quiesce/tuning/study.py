"""Opens a study, or creates it, and refuses one that other settings have made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quiesce.comparison.recipe_fields import dotted
from quiesce.errors import RecipeError
from quiesce.extras import require
from quiesce.tuning.samplers import make_pruner, make_sampler
from quiesce.tuning.settings import Settings

if TYPE_CHECKING:
    from optuna import Study

MADE_BY = "quiesce"
"""The user attribute of a study with the settings that made it."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A study in its storage."""

    name: str
    storage: Any
    settings: Settings
    created: bool
    """Whether this call has created it."""

    def study(self, number: int | None = None) -> Study:
        """Return the study, as Optuna has it.

        Args:
            number: The try that is sampled or pruned with it; None to read or to tell.
        """
        optuna: Any = require("optuna", "`quiesce tune`", "tune")
        chosen: Any = optuna.samplers.RandomSampler()
        if number is not None:
            chosen = make_sampler(self.settings.sampler, self.settings.space, number)
        return optuna.load_study(
            study_name=self.name,
            storage=self.storage,
            sampler=chosen,
            pruner=make_pruner(self.settings.pruner),
        )

    def remove_if_new(self) -> None:
        """Remove the study if this call has created it and it has no try."""
        optuna: Any = require("optuna", "`quiesce tune`", "tune")
        if self.created and not self.study().get_trials(deepcopy=False):
            optuna.delete_study(study_name=self.name, storage=self.storage)


def open_study(name: str, storage: Any, settings: Settings) -> Opened:
    """Create a study, or open one that the same settings have made.

    Args:
        name: Name of the study in the storage.
        storage: From `quiesce.tuning.storage.open_storage`.
        settings: The settings.

    Raises:
        RecipeError: Other settings have made the study, or not `quiesce tune`.
    """
    optuna: Any = require("optuna", "`quiesce tune`", "tune")
    known = name in optuna.get_all_study_names(storage)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[goal.direction for goal in settings.goals],
        load_if_exists=True,
    )
    made_by, identity = study.user_attrs.get(MADE_BY), settings.identity()
    if made_by is None:
        if study.get_trials(deepcopy=False):
            raise RecipeError(
                f"the study {name} holds tries that quiesce did not make; name another: --study"
            )
        study.set_user_attr(MADE_BY, identity)
    else:
        _refuse_other(name, made_by, identity)
    return Opened(name=name, storage=storage, settings=settings, created=not known)


def _refuse_other(name: str, made_by: dict[str, Any], identity: dict[str, Any]) -> None:
    old, new = dict(dotted(made_by)), dict(dotted(identity))
    for field in [*new, *old]:
        if old.get(field) != new.get(field):
            told = field.removeprefix("recipe.").replace("search.", "--search ")
            raise RecipeError(
                f"the study {name} was made by another recipe: {told} was "
                f"{old.get(field)} and now is {new.get(field)}; name another folder: -o FOLDER"
            )
