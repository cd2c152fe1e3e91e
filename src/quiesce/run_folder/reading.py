"""Reads the files of a run folder, within limits and without torch. Every error is one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quiesce.errors import QuiesceError, RecipeError
from quiesce.files.untrusted import yaml_and_json
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.typed_trees import typed
from quiesce.run_folder.contents import VERSION, File, KeptRecipe, Summary
from quiesce.run_folder.folder import DIAGNOSIS, LAYERS, RECIPE, SUMMARY, no_run

F = TypeVar("F", bound=File)


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The recipe and the summary of a run. One of the two files may be missing."""

    folder: Path
    tree: dict[str, Any]
    """All of recipe.yaml; empty if it is missing."""
    recipe: KeptRecipe
    """The fields of recipe.yaml that are read here."""
    summary: Summary | None
    """None if the run is not finished."""

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return (self.summary.name if self.summary else self.recipe.name) or self.folder.name

    @property
    def seed(self) -> int | None:
        """Seed of the run; None if no file has it."""
        return self.summary.seed if self.summary else self.recipe.seed


def read_run(folder: Path) -> RunFiles:
    """Read recipe and summary of a run; raise a RecipeError if a file is damaged or too new."""
    path, recipe, tree = folder / RECIPE, KeptRecipe(), {}
    if path.exists():
        tree = _tree(path, yaml_and_json.read_yaml)
        with reading(path):
            recipe = typed(tree, KeptRecipe)
    summary = maybe_read(folder / SUMMARY, Summary)
    return RunFiles(folder=folder, tree=tree, recipe=recipe, summary=summary)


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a recipe or a summary, or the files of `quiesce.record`."""
    return any((folder / name).is_file() for name in (RECIPE, SUMMARY, DIAGNOSIS, LAYERS))


def runs_in(folder: Path) -> list[Path]:
    """Return `folder` if it is a run, else the runs inside it, sorted; or raise a RecipeError."""
    if is_run(folder):
        return [folder]
    if inside := sorted(path for path in folder.glob("*") if is_run(path)):
        return inside
    raise no_run(folder, RECIPE)


def read_json(path: Path, kind: type[F]) -> F:
    """Read a JSON file of a run or a sweep; raise a RecipeError if it is damaged or too new."""
    tree = _tree(path, yaml_and_json.read_json)
    with reading(path):
        return typed(tree, kind)


def maybe_read(path: Path, kind: type[F]) -> F | None:
    """Read a JSON file as `read_json` does, or return None if there is no such file."""
    return read_json(path, kind) if path.exists() else None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error of a block that reads `path` into a RecipeError of one line with the file."""
    try:
        yield
    except QuiesceError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = (
            f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        )
        raise RecipeError(f"{path} is damaged: {reason}; write it again, or remove it") from error


def _tree(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    with reading(path):
        tree = read(path)
        refuse_newer(str(path), typed(typed(tree, dict[str, Any])["version"], int), VERSION)
        return tree
