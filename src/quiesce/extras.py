"""Imports optional dependencies; the error for a missing one says how to install it."""

from importlib import import_module
from types import ModuleType

from quiesce.errors import MissingExtraError


def require(module: str, feature: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra installs it.

    Args:
        module: Dotted name, such as "torchvision.datasets".
        feature: What needs the module; the message begins with it: "the data set mnist5k".
        extra: The extra of quiesce that installs it.

    Raises:
        MissingExtraError: The package of `module` is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # installed, but broken in another way
        raise MissingExtraError(feature, extra) from error
