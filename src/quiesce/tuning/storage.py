"""Where a study is stored: SQLite in its folder, or a database or journal that its URL names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quiesce.errors import RecipeError, first_line
from quiesce.extras import require
from quiesce.files.atomic import in_home

STUDY = "study.db"
"""The SQLite file in the folder of a study."""

JOURNAL = "journal:"
"""Prefix of the path of a journal file, which also works on a network file system."""

WAIT_S = 60.0
"""Seconds to wait for another process that writes to the same SQLite file."""


def default_storage(folder: Path) -> str:
    """Return the URL of the SQLite file in the folder of a study."""
    return f"sqlite:///{folder / STUDY}"


def open_storage(url: str) -> Any:
    """Return Optuna's storage of a URL.

    Args:
        url: Of a database, as SQLAlchemy reads it ("sqlite:///study.db", "mysql://..."); or
            "journal:PATH" or "redis://..." of a journal.

    Raises:
        MissingExtraError: Optuna is not installed.
        RecipeError: The storage cannot be opened.
    """
    storages: Any = require("optuna.storages", "`quiesce tune`", "tune")
    journal: Any = require("optuna.storages.journal", "`quiesce tune`", "tune")
    with explained(url, ImportError, OSError):
        if url.startswith(JOURNAL):
            path = in_home(url.removeprefix(JOURNAL))
            return storages.JournalStorage(journal.JournalFileBackend(str(path)))
        if url.startswith("redis"):
            return storages.JournalStorage(journal.JournalRedisBackend(url))
        wait = {"timeout": WAIT_S} if url.startswith("sqlite") else {}
        stored = storages.RDBStorage(url, engine_kwargs={"connect_args": wait})
        return storages.get_storage(stored)  # reads each finished try once


@contextmanager
def explained(url: str, *also: type[Exception]) -> Iterator[None]:
    """Turn errors of a storage in the block into one line.

    Args:
        url: The URL of the storage.
        also: Other errors that the storage causes.

    Raises:
        RecipeError: The storage does not answer, or cannot be read.
    """
    database: Any = require("sqlalchemy.exc", "`quiesce tune`", "tune")
    optuna: Any = require("optuna.exceptions", "`quiesce tune`", "tune")
    try:
        yield
    except (database.SQLAlchemyError, optuna.StorageInternalError, *also) as error:
        reason = first_line(error.__cause__ or error)
        raise RecipeError(f"--storage {_without_password(url)}: {reason}") from error


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"
