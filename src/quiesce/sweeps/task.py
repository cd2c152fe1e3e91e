"""A task of a sweep: a run, or a shared float network, as plain data for any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field


class Task(Struct, frozen=True, kw_only=True):
    """The input of a worker. All paths must be valid on every machine."""

    name: str
    """Unique among the tasks of a sweep."""

    recipe: Path
    """The recipe of the run, or of a run that needs the float network."""

    folder: Path
    """The run folder, or the folder of the float network."""

    log: Path
    """Log file of the worker."""

    directory: Path = field(default_factory=Path.cwd)
    """Working directory; relative paths in the recipe start here."""

    needs: str | None = None
    """Name of the task that must finish first: the float network of this run."""

    weights: Path | None = None
    """File of the float network that a run starts from instead of training one."""

    only_float: bool = False
    """Whether to train only the float stage."""

    mirror: str | None = None
    """URL of the sweep's folder. The paths are then those of its copy on the machine that made the
    task; `at` gives those of another machine."""

    root: Path | None = None
    """The copy of the sweep's folder on that machine."""

    @property
    def state(self) -> Path:
        """The file with the state of the task; see `quiesce.sweeps.task_state`."""
        return self.log.with_suffix(".json")

    @property
    def progress(self) -> Path:
        """The file with the number of steps that a running task has completed."""
        return self.log.with_suffix(".progress")

    @property
    def stop(self) -> Path:
        """The file that asks a running task to stop; its text is the reason."""
        return self.log.with_suffix(".stop")

    def at(self, root: Path) -> Task:
        """Return the task of a sweep at a URL with the paths of a machine with another copy."""
        if self.root is None:
            raise ValueError("only a task with a `root` can be moved")
        moved = {name: getattr(self, name) for name in ("recipe", "folder", "log", "weights")}
        here = self.directory if self.directory.is_dir() else root
        return msgspec.structs.replace(
            self,
            **{n: path and root / path.relative_to(self.root) for n, path in moved.items()},
            root=root,
            directory=here,
        )

    def forget(self) -> None:
        """Remove the files that an earlier attempt has left, except for its results."""
        for path in (self.state, self.progress, self.stop):
            path.unlink(missing_ok=True)

    def to_json(self) -> str:
        """Return the task as a line of JSON."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Return the task of a line from `to_json`."""
        return msgspec.json.decode(text, type=cls, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    return kind(value)
