"""Import of user functions and classes named in a recipe, such as `mymodule:make_data`.

A name consists of the dotted name of a module, a colon, and the name of a function or class in it.
The module is searched in the current folder first, as `python` does for a script, and then in the
environment. `quiesce.recipes.reading` decides whether a recipe may name user code.
"""

import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from quiesce.errors import QuiesceError, RecipeError, did_you_mean

TRUST = "--trust"
"""Flag that allows the recipe of a run folder to import modules of the user."""

_WORD = r"[A-Za-z_]\w*"
_NAME = re.compile(rf"{_WORD}(\.{_WORD})*:{_WORD}")


def is_user_code(name: str | None) -> bool:
    """Return whether a value of a recipe names an object in a user module."""
    return name is not None and _NAME.fullmatch(name) is not None


def find(name: str, field: str) -> Callable[..., Any]:
    """Import a user module and return the named function or class.

    Args:
        field: Field of the recipe that contains the name. Error messages begin with it.

    Raises:
        RecipeError: The module does not exist, cannot be imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _explained(error, f"{field}: importing {module_name}") from error
        raise RecipeError(
            f"{field}: there is no module {error.name!r}, neither in {here} nor in the environment"
        ) from error
    except Exception as error:
        raise _explained(error, f"{field}: importing {module_name}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [each for each, value in vars(module).items() if callable(value)]
        hint = did_you_mean(attribute, there) or f"it has {', '.join(there) or 'none'}"
        raise RecipeError(
            f"{field}: {module_name} has no function or class {attribute!r}; {hint:.200}"
        )
    return found


def call(name: str, field: str, **offered: Any) -> Any:
    """Call a user function with those of the offered arguments that it takes, by keyword.

    Raises:
        RecipeError: As in `find`; or the function takes other arguments, or fails. Errors of
            quiesce that the function raises are passed on unchanged.
    """
    function = find(name, field)
    try:
        takes = signature(function).parameters.values()
    except (TypeError, ValueError) as error:  # some functions written in C
        raise RecipeError(f"{field}: {name} does not say which arguments it takes") from error
    others = [
        each.name
        for each in takes
        if each.default is Parameter.empty
        and each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        and (each.name not in offered or each.kind is Parameter.POSITIONAL_ONLY)
    ]
    if others:
        raise RecipeError(
            f"{field}: {name} takes {others[0]!r}, but gets {', '.join(offered)} by keyword; give "
            "it a default, or rename it"
        )
    if not any(each.kind is Parameter.VAR_KEYWORD for each in takes):
        names = {each.name for each in takes}
        offered = {key: value for key, value in offered.items() if key in names}
    return run(lambda: function(**offered), f"{field}: {name}")


def run(step: Callable[[], Any], where: str) -> Any:
    """Run user code; turn its error into a RecipeError of one line with file and line number."""
    try:
        return step()
    except QuiesceError:
        raise
    except Exception as error:
        raise _explained(error, where) from error


def _explained(error: Exception, where: str) -> RecipeError:
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or '?').name}, line {error.lineno}"
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
    reason = " ".join(str(error).split()) or "no message"
    return RecipeError(f"{where} fails in {place}: {type(error).__name__}: {reason}")
