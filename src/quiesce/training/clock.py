"""Wall time of a run and its stages, including the time before it was resumed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

ALL = "all"
"""Key of the time of the whole run."""


class Clock:
    """Adds up the wall time of the whole run and of its stages.

    Args:
        before: Seconds by stage up to the checkpoint that the run resumes from.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self._seconds = dict(before or {})
        self._started_s = {ALL: perf_counter()}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        self._started_s[stage] = perf_counter()
        yield
        self._seconds[stage] = self.seconds()[stage]
        del self._started_s[stage]

    def seconds(self) -> dict[str, float]:
        """Return seconds by stage, including stages that are still running."""
        now_s = perf_counter()
        passed = {stage: now_s - started_s for stage, started_s in self._started_s.items()}
        return {
            stage: self._seconds.get(stage, 0.0) + passed.get(stage, 0.0)
            for stage in {**self._seconds, **passed}
        }
