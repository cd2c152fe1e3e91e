"""A folder at a URL (s3://, gs://, file://, memory://, ...), and its copy on this machine.

fsspec reads and writes it. A file appears under its name only when all of it is there: it is
written under another name, and moved.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from quiesce.errors import RecipeError, first_line
from quiesce.extras import require


def is_url(folder: str) -> bool:
    """Return whether a folder is given as a URL."""
    return "://" in folder


class Mirror:
    """A folder at a URL.

    Args:
        url: The URL. Credentials are those of fsspec: environment variables, files, or a service.
        purpose: Appended to the name of the copy, which then is another one.

    Raises:
        RecipeError: There is no such protocol, or its package is not installed.
    """

    def __init__(self, url: str, purpose: str = "") -> None:
        fsspec: Any = require("fsspec", "a folder at a URL", "train")
        self.url = url.rstrip("/")
        try:
            self._files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise RecipeError(f"{url}: {first_line(error)}") from error
        self._root = root.rstrip("/")
        self.local = _copies() / f"{PurePosixPath(root).name}-{_digest(self.url)}{purpose}"
        """The copy of the folder on this machine."""
        self._put: dict[str, tuple[int, int]] = {}

    def check(self) -> None:
        """Write a file, read it, and remove it.

        Raises:
            RecipeError: One of these fails, for example without credentials.
        """
        probe = self.local / f".probe-{os.getpid()}"
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"quiesce")
            self.put([probe])
            self.reads(probe.name)
            self._files.rm_file(self._at(probe.name))
        except Exception as error:  # each file system has errors of its own
            raise RecipeError(
                f"{self.url} can not be written: {first_line(error)}; check the address and the "
                "credentials"
            ) from error
        finally:
            probe.unlink(missing_ok=True)

    def put(self, paths: Iterable[Path], name: str | None = None) -> None:
        """Upload files of the copy that have changed since the last upload.

        Args:
            paths: The files; those that vanish in the meantime are skipped.
            name: Name of the uploaded file in the folder, if it differs from that of the copy.
        """
        for path in paths:
            target = name or path.relative_to(self.local).as_posix()
            try:
                found = path.stat()
                state = (found.st_size, found.st_mtime_ns)
                if self._put.get(target) != state:
                    self._write(path, self._at(target))
                    self._put[target] = state
            except FileNotFoundError:
                if path.exists():
                    raise

    def fetch(self, names: Iterable[str]) -> None:
        """Download files of the folder into the copy, those that exist."""
        for name in names:
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            source = self._at(name)
            if self._is_there(lambda source=source, to=beside: self._files.get_file(source, to)):
                beside.replace(path)

    def reads(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        found: list[bytes] = []
        self._is_there(lambda: found.append(self._files.cat_file(self._at(name))))
        return found[0] if found else None

    def modified_s(self, name: str) -> float:
        """Return when a file was written, in seconds since the epoch."""
        return self._files.modified(self._at(name)).timestamp()

    def files(self, folder: str) -> list[str]:
        """Return the files of a folder, without those in folders below it."""
        self._files.invalidate_cache()
        found: list[dict[str, Any]] = []
        self._is_there(lambda: found.extend(self._files.ls(self._at(folder), detail=True)))
        return [self._name(each["name"]) for each in found if each["type"] == "file"]

    def tree(self, folder: str) -> list[str]:
        """Return all files in a folder and below it."""
        self._files.invalidate_cache()
        found: list[str] = []
        self._is_there(lambda: found.extend(self._files.find(self._at(folder))))
        return list(map(self._name, found))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all files in it; "" removes everything."""
        self._is_there(lambda: self._files.rm(self._at(name).rstrip("/"), recursive=True))

    def _write(self, path: Path, target: str) -> None:
        part = f"{target}.part-{os.getpid()}"
        try:
            self._files.put_file(str(path), part)
        except FileNotFoundError:  # file systems with real folders
            self._make_folders(target)
            self._files.put_file(str(path), part)
        self._files.mv(part, target)

    def _make_folders(self, target: str) -> None:
        """Make the folders of a file, except for the first one: a bucket is never created."""
        above = [parent.as_posix() for parent in PurePosixPath(target).parents]
        for folder in reversed([each for each in above if "/" in each.strip("/")]):
            if not self._files.exists(folder):
                self._files.mkdir(folder, create_parents=False)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self._root}/")

    def _is_there(self, act: Callable[[], object]) -> bool:
        """Call a function that needs a file; return whether there was one."""
        try:
            act()
        except FileNotFoundError:
            return False
        return True


def _copies() -> Path:
    """Return the folder of all copies."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "quiesce"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
