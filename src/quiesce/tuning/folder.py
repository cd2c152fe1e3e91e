"""The folder of a study: tune.json, the runs of its tries, and what several workers agree on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from quiesce.errors import QuiesceError, RecipeError
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.limits import refuse_links
from quiesce.recipes.reading import write_recipe
from quiesce.run_folder.contents import TuneFile
from quiesce.run_folder.folder import LOCK, TUNE, remove_new, topmost_new, write_json, write_text
from quiesce.run_folder.reading import maybe_read
from quiesce.sweeps.mirror import is_url
from quiesce.tuning.results import BASE
from quiesce.tuning.settings import Settings


def path_of(folder: str | Path | None, name: str) -> Path:
    """Return the absolute path of a study's folder; None means runs/<name of the study>.

    Raises:
        RecipeError: The folder is a URL.
    """
    folder = Path("runs", name) if folder is None else folder
    if is_url(str(folder)):
        raise RecipeError(
            f"-o {folder}: the folder of a study can not be a URL; workers on several machines "
            "share a database: --storage URL"
        )
    return in_home(folder).absolute()


CLAIMS = "claims"
"""Subfolder of the claims of the workers."""


@contextmanager
def study_folder(folder: Path, settings: Settings) -> Iterator[TuneFile]:
    """Create or continue the folder of a study; remove a new one if the block refuses to start.

    Several workers may use the same folder.

    Args:
        folder: The folder.
        settings: The settings of the study.

    Raises:
        RecipeError: The folder holds other files, or a symbolic link.
    """
    topmost = None if folder.exists() else topmost_new(folder)
    if topmost is None and not (folder / TUNE).is_file() and _is_used(folder):
        raise RecipeError(f"{folder} exists and holds no study; name another: -o FOLDER")
    if topmost is None:
        try:
            refuse_links(folder)
        except ValueError as error:
            raise RecipeError(f"{folder}: {error}; put it there itself") from error
    (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK):  # only while it is made: workers share it
            known = maybe_read(folder / TUNE, TuneFile)
            if known is None:
                known = TuneFile(id=uuid.uuid4().hex, seeds=settings.seeds)
                write_text(folder / BASE, write_recipe(settings.base))
                write_json(folder / TUNE, known.tree())
        yield known
    except QuiesceError:
        if topmost is not None and not (folder / "recipes").exists():  # no try has begun
            remove_new(folder, topmost)
        raise


def _is_used(folder: Path) -> bool:
    return any(path.name not in (LOCK, CLAIMS) for path in folder.iterdir())
