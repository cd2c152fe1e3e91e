"""Claims of a process on tries and float networks, so that several processes share a folder.

A claim is a locked file. The operating system frees it when the process ends for any reason.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class Claims:
    """The claims of this process.

    Args:
        folder: The folder of the locked files; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileLock] = {}

    def take(self, name: str) -> bool:
        """Return whether this process holds the claim now; False if another process does."""
        if name in self._held:
            return True
        lock = FileLock(self._folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held[name] = lock
        return True

    def holds(self, name: str) -> bool:
        """Return whether this process holds the claim."""
        return name in self._held

    def free(self, name: str) -> None:
        """Give a claim back. Who takes it next must look again whether there is work to do."""
        lock = self._held.pop(name, None)
        if lock is not None:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()

    def free_all(self) -> None:
        """Give all claims back."""
        for name in list(self._held):
            self.free(name)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of the folder is in such a block."""
        with FileLock(self._folder / "alone"):
            yield
