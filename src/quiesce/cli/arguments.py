"""argparse for the small commands: its errors become ours, in one line."""

import argparse
from typing import Any, NoReturn

from quiesce.errors import RecipeError


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser that raises `RecipeError` instead of printing usage and exiting.

    Flags are written out: `--seed` is a field of a recipe and must not be taken for `--seeds`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        raise RecipeError(f"{message}; see `{self.prog} --help`")
