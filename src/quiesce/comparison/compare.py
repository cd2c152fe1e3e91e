"""Compares groups of runs: the spread of each measure, and its difference to a baseline."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quiesce.comparison.finished_runs import find_runs
from quiesce.comparison.groups import Group, find_group, group_runs, refuse_mixed_data
from quiesce.comparison.measures import MEASURES, Measure
from quiesce.comparison.statistics import Difference, Spread, difference, spread
from quiesce.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, grouped by recipe."""

    groups: list[Group]
    """The groups, in the order in which each recipe first appears."""
    baseline: Group | None
    """The baseline of the comparison."""
    left_out: dict[Path, str]
    """Folders of runs that are not compared, and the reason."""

    def spread(self, group: Group, measure: Measure) -> Spread | None:
        """Return mean and standard deviation over the seeds, or None if no run measured it."""
        return spread(group.values(measure).values())

    def difference(self, group: Group, measure: Measure) -> Difference | None:
        """Return group minus baseline; None for the baseline itself, or without numbers."""
        if self.baseline is None or group is self.baseline:
            return None
        return difference(group.values(measure), self.baseline.values(measure))

    @property
    def measures(self) -> list[Measure]:
        """Measures that at least one run has."""
        return [each for each in MEASURES if any(group.values(each) for group in self.groups)]


def compare(
    folders: Iterable[Path], *, baseline: str | None = None, mixed_data: bool = False
) -> Comparison:
    """Read runs and group them by recipe.

    Args:
        folders: Run folders, sweeps, or folders of runs.
        baseline: Label of a group, or the name of its recipe. None uses the baseline of the sweep
            if there is exactly one sweep, and its baseline one group; no baseline otherwise.
        mixed_data: Whether runs of different data may be compared.

    Raises:
        RecipeError: A folder holds no run, no run is finished, the data differ, two runs have the
            same recipe and seed, or no group has the name of the baseline.
    """
    found = find_runs(folders)
    if not found.finished:
        reasons = "; ".join(f"{folder}: {why}" for folder, why in found.left_out.items())
        raise RecipeError(f"no run is finished: {reasons or 'the sweep lists none'}")
    if not mixed_data:
        refuse_mixed_data(found.finished)
    groups = group_runs(found.finished)
    if baseline is None and len(found.baselines) == 1:
        named = [group.label for group in groups if found.baselines[0] in (group.label, group.name)]
        baseline = named[0] if len(named) == 1 else None  # with a grid, it is one at each point
    base = None if baseline is None else find_group(groups, baseline)
    return Comparison(groups=groups, baseline=base, left_out=found.left_out)
