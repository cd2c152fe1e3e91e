"""Atomic checkpoint files: the last two are kept, and the CRCs of their zip archive are checked."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from quiesce.errors import CheckpointError
from quiesce.files.atomic import sync, write_beside
from quiesce.files.weight_files import unpickled
from quiesce.run_folder.folder import LAST, PREVIOUS


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, and keep the existing one as `PREVIOUS`.

    Args:
        content: Content that `torch.load(weights_only=True)` can read.
        path: The file; its name is `LAST`. Its folder is created if needed.

    Raises:
        DiskFullError: There is no space. The earlier checkpoints are unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()
    torch.save(content, archive)

    def write(beside: Path) -> None:
        beside.write_bytes(archive.getbuffer())
        sync(beside)  # before the older checkpoint is renamed
        if path.exists():
            path.replace(path.with_name(PREVIOUS))

    write_beside(path, write, needed=archive.tell())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running its code; raise a CheckpointError if it is damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (checksum of {damaged})")
    content = unpickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint but a {type(content).__name__}")
    return content


def newest_sound(folder: Path, tell: Callable[[str], object]) -> tuple[Path, dict[str, Any]] | None:
    """Return path and content of the newest readable checkpoint in a folder.

    Args:
        tell: Called with a message if the newest checkpoint is damaged and an older one is used.

    Returns:
        None if there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    wrong = []
    for path in found:
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            wrong.append(str(error))
            continue
        if wrong:
            tell(f"{'; '.join(wrong)}; using {path} instead, step {content.get('global_step')}")
        return path, content
    if found:
        raise CheckpointError(f"{'; '.join(wrong)}; remove {folder} to train from the beginning")
    return None


class SoundCheckpoints(CheckpointIO):
    """Makes a Trainer read and write its checkpoints with the functions above."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; its code is never run, whatever the options are."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
