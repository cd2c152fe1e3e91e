"""The argument parser of the small commands. It raises quiesce errors, which are one line each."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from quiesce.errors import RecipeError
from quiesce.user_code import TRUST

PATHS = {"FILE", "FOLDER", "IMAGE", "RUN"}
"""Metavars of arguments that are files or folders."""


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser that raises `RecipeError` instead of printing usage and exiting.

    Flags cannot be abbreviated: `--seed` is a field of a recipe and must not be read as `--seeds`.
    """

    def __init__(self, **options: Any) -> None:
        self.paths: list[argparse.Action] = []
        """Actions of arguments that are files or folders, for `quiesce completion`."""
        super().__init__(**options, allow_abbrev=False)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument as argparse does, and record whether it is a file or a folder."""
        action = super().add_argument(*names, **options)
        if action.metavar in PATHS or action.type is Path:
            self.paths.append(action)
        return action

    def add_json(self) -> None:
        """Add the flag `--json`; docs/json.md documents the output of each command."""
        self.add_argument(
            "--json", action="store_true", help="print JSON instead of text (see docs/json.md)"
        )

    def add_trust(self) -> None:
        """Add the flag `--trust`, for commands that rebuild the network of a run folder."""
        self.add_argument(
            TRUST,
            action="store_true",
            help="import the modules of yours that the run folder names (data.name, model.name, "
            "metric)",
        )

    def parse_with_recipe_flags(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the arguments, and the flags for the recipe, including `--trust`."""
        known, flags = self.parse_known_args(argv)
        return known, [*flags, *([TRUST] if known.trust else [])]

    def add_output(self, page: str) -> None:
        """Add the flags `--output` and `--force` of a command that writes a page."""
        self.add_argument(
            "-o",
            "--output",
            type=Path,
            default=Path(page),
            metavar="FILE",
            help=f"page to write (default: {page})",
        )
        self.add_argument("--force", action="store_true", help="overwrite FILE if it exists")

    def error(self, message: str) -> NoReturn:
        """Raise a `RecipeError` with the message of argparse."""
        raise RecipeError(f"{message}; see `{self.prog} --help`")


def check_output(output: Path, force: bool) -> None:
    """Raise a RecipeError if a file cannot be written, or exists and `force` is not given."""
    if not output.parent.is_dir():
        raise RecipeError(f"{output}: there is no folder {output.parent}; create it first")
    if output.is_dir():
        raise RecipeError(f"{output} is a folder; give a file with -o")
    if output.exists() and not force:
        raise RecipeError(f"{output} exists already; give another file with -o, or add --force")
