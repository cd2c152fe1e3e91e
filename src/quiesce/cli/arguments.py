"""argparse for the small commands: its errors become ours, in one line."""

import argparse
from typing import NoReturn

from quiesce.errors import RecipeError


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser that raises `RecipeError` instead of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        raise RecipeError(f"{message}; see `{self.prog} --help`")
