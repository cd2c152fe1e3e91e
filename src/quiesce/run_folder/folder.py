"""The run folder: made last, written whole, and taken away again when nothing came of it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quiesce.errors import CheckpointError, QuiesceError, RecipeError
from quiesce.files.atomic import full_disk_named, write_beside
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.yaml_and_json import read_json as read_tree

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
NETWORK = "network.safetensors"
FLOAT_NETWORK = "float.safetensors"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""Names of the newest checkpoint of a folder and of the one before it, which may be alone there."""
CHECKPOINT = f"checkpoints/{LAST}"
FLOAT_CHECKPOINT = f"checkpoints/float/{LAST}"
LOCK = ".lock"
LAYERS = "layers.csv"
BATCHNORM = "batchnorm.csv"
BATCHNORM_LOSS = "batchnorm_loss.csv"
TRAJECTORIES = "trajectories.npz"
DIAGNOSIS = "diagnosis.json"
PROBE = "probe.json"


def refuse_existing(folder: Path) -> None:
    """Refuse to write over an earlier run.

    Raises:
        RecipeError: Something of that name is there.
    """
    if folder.exists():
        raise _exists(folder)


@contextmanager
def run_folder(folder: Path, *, owner: bool = True) -> Iterator[Path]:
    """Make `folder` for the block; when the block fails before a checkpoint, remove it again.

    Args:
        folder: Must not exist; missing parents are made, and removed with it if nothing else has
            come into them.
        owner: Whether this process makes and removes it; False in all but the first of many.

    Raises:
        RecipeError: The folder can not be made or written to.
    """
    if not owner:
        yield folder
        return
    refuse_existing(folder)
    topmost = next(path for path in (folder, *folder.parents) if path.parent.exists())
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:  # another run has made it since
        raise _exists(folder) from error
    except OSError as error:
        _remove(folder, topmost)
        raise _not_writable(folder, error) from error
    try:
        _probe(folder)
    except OSError as error:
        _remove(folder, topmost)
        raise _not_writable(folder, error) from error
    try:
        with locked(folder), explained(folder):
            yield folder
    except BaseException:
        if not has_checkpoint(folder):
            _remove(folder, topmost)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
        RecipeError: Another process trains in it.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RecipeError(f"another process is training in {folder}; wait for its end") from error
    try:
        yield
        with suppress(OSError):  # the run is finished: nobody goes on in it
            (folder / LOCK).unlink()
    finally:
        lock.release()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say with what stops a run how to go on with it.

    Raises:
        DiskFullError: There is no space, and nobody has said for what.
    """
    try:
        with full_disk_named(folder):
            yield
    except BaseException as error:
        if (newest := _newest(folder)) and not isinstance(error, CheckpointError):
            _add_note(
                error,
                f"the last good checkpoint is {newest}; to go on: quiesce train --resume {folder}",
            )
        raise


def has_checkpoint(folder: Path) -> bool:
    """Whether a run was cut off late enough to go on in its folder."""
    return _newest(folder) is not None


def _newest(folder: Path) -> Path | None:
    stages = (folder / name for name in (CHECKPOINT, FLOAT_CHECKPOINT))
    paths = (stage.with_name(name) for stage in stages for name in (LAST, PREVIOUS))
    return next((path for path in paths if path.exists()), None)


def write_text(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename: whoever reads sees all of it or nothing."""
    data = text.encode()
    write_beside(path, lambda beside: beside.write_bytes(data), needed=len(data))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write `tree` as `write_text` does."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def read_json(path: Path, version: int) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Args:
        path: The file.
        version: The newest version of its format that the caller can read.

    Raises:
        RecipeError: The file can not be read, or is of a newer version.
    """
    try:
        tree = read_tree(path)
        found = tree["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path} is damaged or no file of a run: {error}") from error
    refuse_newer(str(path), found, version)
    return tree


def _exists(folder: Path) -> RecipeError:
    return RecipeError(f"{folder} exists already; name another: --run FOLDER, or remove it")


def _not_writable(folder: Path, error: OSError) -> RecipeError:
    reason = error.strerror or error
    return RecipeError(f"{folder} can not be written: {reason}; name another: --run")


def _probe(folder: Path) -> None:
    probe = folder / ".probe"
    probe.write_bytes(b"quiesce")  # a full or read-only disk shows here, before hours of training
    probe.unlink()


def _remove(folder: Path, topmost: Path) -> None:
    """Remove a folder, and those above it up to `topmost` that hold nothing else."""
    if folder.exists():
        shutil.rmtree(folder)
    with suppress(OSError):  # another run has begun beside this one
        while folder != topmost:
            folder = folder.parent
            folder.rmdir()


def _add_note(error: BaseException, note: str) -> None:
    """Let one of our errors, or Ctrl-C, say one more thing."""
    if isinstance(error, QuiesceError | KeyboardInterrupt):
        error.args = (f"{error}; {note}" if str(error) else f"stopped; {note}",)
