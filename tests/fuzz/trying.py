"""Changes one file after the other and gives it to a command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

from fuzz.kinds import Kind, Wrong

MOST_S = 30
"""For one file; the slowest sound one takes a tenth of it."""


class Ground:
    """A folder with sound files of a kind, one of which is changed at a time.

    Args:
        kind: The kind of files.
        folder: An empty folder; nothing outside of it may change.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self._kind = kind
        self._folder = folder
        self._sound = {path: path.read_bytes() for path in kind.make(folder)}
        self._names = {*_names(folder), "page.html"}

    def sound(self) -> bool:
        """Whether every unchanged file is accepted."""
        return all(self._kind.use(Random(0), self._folder, path) for path in self._sound)

    def tried(self, seed: int) -> bool:
        """Change a file, give it to its command, put it back; return whether it was accepted.

        Raises:
            Wrong: It took too long, or something was written elsewhere.
            Exception: What the command raised: its user would see a traceback.
        """
        random = Random(seed)
        path = random.choice(list(self._sound))
        path.write_bytes(self._kind.change(random, self._sound[path]))
        try:
            with _at_most(MOST_S):
                taken = self._kind.use(random, self._folder, path)
        finally:
            path.write_bytes(self._sound[path])
        if strange := _names(self._folder) - self._names:
            raise Wrong(f"{sorted(strange)} appeared")
        return taken


def _names(folder: Path) -> set[str]:
    """Names in a folder and beside it; a command may write into the folder of the run."""
    return {path.name for path in folder.iterdir()} | {
        path.name for path in folder.parent.iterdir()
    }


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
