"""The folder of a sweep: sweep.json, the recipe of each run, their logs, and the runs."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import UNSET

from quiesce.comparison.recipe_fields import dotted
from quiesce.errors import RecipeError
from quiesce.files.untrusted.limits import refuse_links
from quiesce.recipes.reading import read_recipe, write_recipe
from quiesce.run_folder.contents import SweepFile, SweptRun
from quiesce.run_folder.folder import (
    FLOAT_NETWORK,
    RECIPE,
    SUMMARY,
    SWEEP,
    has_checkpoint,
    locked,
    write_json,
    write_text,
)
from quiesce.run_folder.reading import maybe_read
from quiesce.sweeps.plan import PlannedRun
from quiesce.sweeps.sweep import Sweep


class SweepFolder:
    """Locates the files of a sweep.

    Args:
        folder: The folder of the sweep; created when it is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> Iterator[None]:
        """Create or continue the folder, and lock it against other sweeps in the block.

        Raises:
            RecipeError: The folder holds other files, a run of the same name with another recipe,
                or a symbolic link; or another process sweeps in it.
        """
        if self.folder.exists() and not (self.folder / SWEEP).is_file():
            raise RecipeError(f"{self.folder} is not a sweep; give another folder with -o")
        try:
            refuse_links(self.folder)
        except ValueError as error:
            raise RecipeError(f"{self.folder}: {error}; replace it by what it links to") from error
        self.refuse_changed(runs)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, "sweeping"):
            for run in runs:
                self.keep_recipe(run)
            write_json(self.folder / SWEEP, self._content(sweep, runs).tree())
            yield

    def refuse_changed(self, runs: Sequence[PlannedRun]) -> None:
        """Raise a RecipeError if a recipe differs from that of the earlier runs."""
        for run in runs:
            if not (path := self.recipe(run)).is_file():
                continue
            old, new = dict(dotted(read_recipe(str(path)).tree())), dotted(run.recipe.tree())
            for field, value in new:
                if old.get(field) != value:
                    raise RecipeError(
                        f"{self.folder} was made by another recipe: in {run.name} {field} was "
                        f"{old.get(field)} and now is {value}; give another folder with -o"
                    )

    def keep_recipe(self, run: PlannedRun) -> None:
        """Write the recipe of a run, unless it is there."""
        path = self.recipe(run)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            write_text(path, write_recipe(run.recipe))

    def recipe(self, run: PlannedRun) -> Path:
        """Return the file of a run's recipe, as planned."""
        return self.folder / "recipes" / f"{run.name}.yaml"

    def run(self, run: PlannedRun) -> Path:
        """Return the folder of a run."""
        return self.folder / run.name

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.folder / "logs" / f"{name}.log"

    def float_network(self, key: str) -> Path:
        """Return the file of a shared float network."""
        return self.folder / "float" / key / FLOAT_NETWORK

    def is_finished(self, run: PlannedRun) -> bool:
        """Return whether a run has written its summary, which is its last file."""
        return (self.run(run) / SUMMARY).is_file()

    def goes_on(self, run: PlannedRun) -> bool:
        """Return whether an interrupted run can be resumed."""
        folder = self.run(run)
        return (folder / RECIPE).is_file() and has_checkpoint(folder)

    def clear(self, run: Path) -> None:
        """Remove the files of an unfinished run."""
        if run.exists():
            shutil.rmtree(run)

    def _content(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> SweepFile:
        """Return the content of sweep.json, including the runs of earlier calls."""
        earlier = maybe_read(self.folder / SWEEP, SweepFile)
        names = {run.name for run in runs}
        listed = [run for run in earlier.runs if run.folder not in names] if earlier else []
        listed += map(_entry, runs)
        swept = [item for run in listed for item in run.fields.items()]
        return SweepFile(
            name=sweep.name,
            recipe=sweep.recipe,
            variants=sweep.variants,
            set={
                field: _each_once(value for other, value in swept if other == field)
                for field in dict(swept)
            },
            seeds=tuple(_each_once(run.seed for run in listed)),
            baseline=sweep.baseline,
            runs=tuple(listed),
        )


def _entry(run: PlannedRun) -> SweptRun:
    variant = UNSET if run.variant is None else run.variant
    return SweptRun(folder=run.name, variant=variant, fields=run.fields, seed=run.recipe.seed)


def _each_once(values: Iterator[Any]) -> list[Any]:
    once = []
    for value in values:
        if value not in once:
            once.append(value)
    return once
