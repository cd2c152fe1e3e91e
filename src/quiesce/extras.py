"""Optional dependencies: imported where they are needed, named with their `pip install`."""

from importlib import import_module
from types import ModuleType

from quiesce.errors import MissingExtraError


def require(module: str, feature: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Args:
        module: Dotted name, such as "torchvision.datasets".
        feature: What needs it, as the message begins: "the data set mnist5k".
        extra: Name of the extra of quiesce that installs it.

    Raises:
        MissingExtraError: The package that holds `module` is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # installed, and broken in some other way: not ours to explain
        raise MissingExtraError(feature, extra) from error
