"""Checkpoint files: whole or not there, the last two kept, each with a checksum of its own.

A file of torch.save is a zip archive, whose comment nothing reads: the checksum is kept there. So
file and checksum are renamed as one, and any reader of torch still opens the file.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from quiesce.errors import CheckpointError
from quiesce.files.atomic import sync, write_beside
from quiesce.files.weight_files import unpickled
from quiesce.run_folder.folder import LAST, PREVIOUS

_MARK = b"quiesce sha256 "
_SEAL = len(_MARK) + 64
_UNSEALED = b"\0\0"  # the length of the comment, with which an archive without one ends
_CHUNK = 1 << 20


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksum, and keep the one that was there as `PREVIOUS`.

    Args:
        content: What `torch.load(weights_only=True)` can read.
        path: Written beside and renamed; its folder is made. Its name is `LAST`.

    Raises:
        DiskFullError: There is no space; the checkpoints that were there are as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(beside: Path) -> None:
        with beside.open("w+b") as file:
            _write_sealed(content, file)
        sync(beside)
        if path.exists():
            _keep(path)

    write_beside(path, write, needed=_size(content))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `write_checkpoint` without running code, if it is sound.

    Raises:
        CheckpointError: It is missing, its checksum is not that of its content, or it is none.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if not _is_sealed(path):
        raise CheckpointError(f"{path} is damaged (checksum)")
    content = unpickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no checkpoint, but a {type(content).__name__}")
    return content


def newest_sound(folder: Path, tell: Callable[[str], object]) -> tuple[Path, dict[str, Any]] | None:
    """Return path and content of the newest checkpoint of a folder that is sound.

    Args:
        folder: Of checkpoints.
        tell: Hears what is wrong with a newer one, and which is used instead.

    Returns:
        None where there is no checkpoint at all.

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
            tell(f"{'; '.join(wrong)}; going on from {path}, step {content.get('global_step')}")
        return path, content
    if found:
        raise CheckpointError(f"{'; '.join(wrong)}; remove {folder} to train from the beginning")
    return None


class SoundCheckpoints(CheckpointIO):
    """How a Trainer reads and writes its checkpoints: as the functions above do."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write one."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read one; never its code, whatever is asked for."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one."""
        Path(path).unlink(missing_ok=True)


def _keep(path: Path) -> None:
    """Let the newest checkpoint be the previous one too, until the next takes its name."""
    other = path.with_name(f".{PREVIOUS}")
    other.unlink(missing_ok=True)
    try:
        other.hardlink_to(path)
    except OSError:  # a file system without second names
        path.replace(path.with_name(PREVIOUS))
    else:
        other.replace(path.with_name(PREVIOUS))


class _Hashed:
    """A file that torch.save writes to: its checksum, and the system's own word for a failure."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _write_sealed(content: dict[str, Any], file: BinaryIO) -> None:
    hashed = _Hashed(file)
    try:
        torch.save(content, hashed)  # pyright: ignore[reportArgumentType] (it writes, no more)
    except Exception:  # torch makes a RuntimeError of what the file has raised
        if hashed.error is not None:
            raise hashed.error from None
        raise
    file.seek(-len(_UNSEALED), 2)
    file.write(_SEAL.to_bytes(2, "little") + _MARK + hashed.digest.hexdigest().encode())


def _is_sealed(path: Path) -> bool:
    digest, left = sha256(), path.stat().st_size - _SEAL - len(_UNSEALED)
    if left <= 0:
        return False
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        length, seal = file.read(len(_UNSEALED)), file.read()
    digest.update(_UNSEALED)
    known = _SEAL.to_bytes(2, "little"), _MARK + digest.hexdigest().encode()
    return (length, seal) == known


def _size(content: Any) -> int:
    """Bytes of all tensors: nearly all that a file of them takes."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    inner: Iterable[Any] = ()
    if isinstance(content, dict):
        inner = content.values()
    elif isinstance(content, list | tuple):
        inner = content
    return sum(map(_size, inner))
