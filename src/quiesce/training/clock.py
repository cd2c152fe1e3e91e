"""How long a run takes, over all the processes that it took."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

ALL = "all"
"""Name of the whole run's time."""


class Clock:
    """Adds up wall time, of the whole run and of its stages.

    Args:
        before: Seconds by stage of the processes before, up to the checkpoint that the run goes on
            from; what was done after it and lost does not count.
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
        """Return stage to seconds, of stages that still run too."""
        now_s = perf_counter()
        passed = {stage: now_s - started_s for stage, started_s in self._started_s.items()}
        return {
            stage: self._seconds.get(stage, 0.0) + passed.get(stage, 0.0)
            for stage in {**self._seconds, **passed}
        }
