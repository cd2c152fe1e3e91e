"""One changed file after the other, and what each cost."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.kinds import Kind, Wrong

MOST_BYTES = 2**30
"""That a file may add to the memory of the process."""

MOST_S = 30
"""For one file; the slowest sound one takes a tenth of it."""


@dataclass(frozen=True)
class Tried:
    """What became of a file."""

    taken: bool
    """The command succeeded; otherwise it refused the file in one line."""
    bytes: int
    """Added to the memory of the process at the peak."""
    seconds: float
    """It took."""


class Ground:
    """A folder with sound files of a kind, one of which is changed at a time.

    Args:
        kind: Of files.
        folder: Empty; nothing outside of it may change.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._sound = {path: path.read_bytes() for path in kind.make(folder)}
        self._names = {*_names(folder), "page.html"}

    def sound(self) -> bool:
        """Whether every file is taken as it is."""
        return all(self._kind.use(Random(0), self._folder, path) for path in self._sound)

    def tried(self, seed: int) -> Tried:
        """Change a file, give it to its command, put it back.

        Raises:
            Wrong: It took too long or too much memory, or something was written elsewhere.
            Exception: Whatever the command raised: a traceback, to its user.
        """
        random = Random(seed)
        path = random.choice(list(self._sound))
        path.write_bytes(self._kind.change(random, self._sound[path]))
        before, started_s = _reset_peak(), time.perf_counter()
        try:
            with _at_most(MOST_S):
                taken = self._kind.use(random, self._folder, path)
        finally:
            path.write_bytes(self._sound[path])
        used = _memory("VmHWM") - before
        if used > MOST_BYTES:
            raise Wrong(f"{used / 2**20:.0f} MB of memory")
        if strange := _names(self._folder) - self._names:
            raise Wrong(f"{sorted(strange)} appeared")
        return Tried(taken, used, time.perf_counter() - started_s)


def _names(folder: Path) -> set[str]:
    """Of what is in a folder; in the folder of the run a command may write."""
    return {path.name for path in folder.iterdir()} | {
        path.name for path in folder.parent.iterdir()
    }


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise Wrong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
