"""The run folder: its file names, its creation, its lock, and its removal if a run fails early."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quiesce.errors import CheckpointError, QuiesceError, RecipeError
from quiesce.files.atomic import full_disk_named, write_beside

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
NETWORK = "network.safetensors"
FLOAT_NETWORK = "float.safetensors"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""File names of the newest checkpoint and of the one before it."""
CHECKPOINT = f"checkpoints/{LAST}"
FLOAT_CHECKPOINT = f"checkpoints/float/{LAST}"
LOCK = ".lock"
METRICS = "metrics.csv"
LOGGERS = "loggers.json"
LAYERS = "layers.csv"
BATCHNORM = "batchnorm.csv"
BATCHNORM_LOSS = "batchnorm_loss.csv"
TRAJECTORIES = "trajectories.npz"
DIAGNOSIS = "diagnosis.json"
PROBE = "probe.json"
SHIPPED_NUMBERS = "shipped.json"
SWEEP, TUNE = "sweep.json", "tune.json"
"""The files that mark the folders of a sweep and of a study."""


def refuse_existing(folder: Path) -> None:
    """Raise a RecipeError if the folder exists, because it may hold an earlier run."""
    if folder.exists():
        raise _exists(folder)


def refuse_no_run(folder: Path, *files: str) -> None:
    """Raise a RecipeError if the folder, or one of these files of a run, is missing."""
    for name in files:
        if not (folder / name).is_file():
            raise no_run(folder, name)


def no_run(folder: Path, file: str) -> RecipeError:
    """Return the error for a folder without a file of a run."""
    what = f"it has no {file}" if folder.is_dir() else "there is no such folder"
    return RecipeError(f"{folder} is not a run folder: {what}; `quiesce train RECIPE` makes one")


@contextmanager
def run_folder(folder: Path, *, owner: bool = True) -> Iterator[Path]:
    """Create `folder` for the block; remove it if the block fails before the first checkpoint.

    Args:
        folder: Must not exist. Missing parents are created, and removed again if they are empty.
        owner: Whether this process creates and removes it. In a distributed run only the first
            process does.

    Raises:
        RecipeError: The folder cannot be created or written to.
    """
    if not owner:
        yield folder
        return
    refuse_existing(folder)
    topmost = topmost_new(folder)
    try:
        folder.mkdir(parents=True)
        probe = folder / ".probe"
        probe.write_bytes(b"quiesce")  # detects a full or read-only disk before hours of training
        probe.unlink()
    except FileExistsError as error:  # another run has created it in the meantime
        raise _exists(folder) from error
    except OSError as error:
        remove_new(folder, topmost)
        reason = error.strerror or error
        raise RecipeError(
            f"{folder} cannot be written: {reason}; give another folder with --run"
        ) from error
    try:
        with locked(folder), explained(folder):
            yield folder
    except BaseException:
        if not has_checkpoint(folder):
            remove_new(folder, topmost)
        raise


@contextmanager
def locked(folder: Path, work: str = "training") -> Iterator[None]:
    """Lock `folder`, so that no other process does the same work in it.

    The operating system releases the lock when the process ends for any reason.

    Raises:
        RecipeError: Another process holds the lock.
    """
    from filelock import FileLock, Timeout  # not at the top: `quiesce report` does not need it

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecipeError(
            f"another process is {work} in {folder}; wait until it has ended"
        ) from error
    try:
        yield
        with suppress(OSError):  # the run is finished, and the lock file is no longer needed
            (folder / LOCK).unlink()
    finally:
        lock.release()


def wait_until_unlocked(folder: Path, at_most_s: float) -> None:
    """Wait until no process trains in a folder."""
    from filelock import FileLock, Timeout

    if (folder / LOCK).exists():
        with suppress(Timeout):
            FileLock(folder / LOCK, timeout=at_most_s).acquire().lock.release()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Add instructions for resuming to the error that stops a run; name a full disk."""
    try:
        with full_disk_named(folder):
            yield
    except BaseException as error:
        if (newest := _newest(folder)) and not isinstance(error, CheckpointError):
            _add_note(
                error,
                f"the last good checkpoint is {newest}; to resume: quiesce train --resume {folder}",
            )
        raise


def has_checkpoint(folder: Path) -> bool:
    """Return whether the folder holds a checkpoint to resume from."""
    return _newest(folder) is not None


def _newest(folder: Path) -> Path | None:
    stages = (folder / name for name in (CHECKPOINT, FLOAT_CHECKPOINT))
    paths = (stage.with_name(name) for stage in stages for name in (LAST, PREVIOUS))
    return next((path for path in paths if path.exists()), None)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees all of it or nothing."""
    data = text.encode()
    write_beside(path, lambda beside: beside.write_bytes(data), needed=len(data))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def _exists(folder: Path) -> RecipeError:
    return RecipeError(f"{folder} exists already; give another folder with --run, or remove it")


def topmost_new(folder: Path) -> Path:
    """Return `folder`, or its topmost parent that does not exist."""
    return next(path for path in (folder, *folder.parents) if path.parent.exists())


def remove_new(folder: Path, topmost: Path) -> None:
    """Remove a folder, and its parents up to `topmost` that are then empty."""
    if folder.exists():
        shutil.rmtree(folder)
    with suppress(OSError):  # not empty: another run has started next to this one
        while folder != topmost:
            folder = folder.parent
            folder.rmdir()


def _add_note(error: BaseException, note: str) -> None:
    """Append a note to the message of a quiesce error, or of Ctrl-C."""
    if isinstance(error, QuiesceError | KeyboardInterrupt):
        error.args = (f"{error}; {note}" if str(error) else f"stopped; {note}",)
