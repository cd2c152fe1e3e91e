"""Functions and classes of the user, named in a recipe: `mymodule:make_data`.

A name is the dotted name of a module, a colon, and the name of something in it. The module is
looked for in the current folder first, as `python` does for a script, and then in the environment.
`quiesce.recipes.reading` decides whether a recipe may name one; here they are only imported.
"""

import re
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from quiesce.errors import QuiesceError, RecipeError

TRUST = "--trust"
"""Flag that allows the recipe of a run folder to import modules of the user."""

_WORD = r"[A-Za-z_]\w*"
_NAME = re.compile(rf"{_WORD}(\.{_WORD})*:{_WORD}")


def is_user_code(name: str | None) -> bool:
    """Whether a value of a recipe names something in a module of the user."""
    return name is not None and _NAME.fullmatch(name) is not None


def find(name: str, field: str) -> Callable[..., Any]:
    """Import a module of the user and return the function or class that is named.

    Args:
        name: Module and name in it, "mymodule:make_data".
        field: Field of the recipe that holds it; a message of an error begins with it.

    Raises:
        RecipeError: There is no such module, it can not be imported, or has no such function.
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
        near = get_close_matches(attribute, there, n=1)
        raise RecipeError(
            f"{field}: {module_name} has no function or class {attribute!r}"
            f"{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    return found


def call(name: str, field: str, **offered: Any) -> Any:
    """Call a function of the user with those of the arguments that it takes, by keyword.

    Args:
        name: As in `find`.
        field: As in `find`.
        offered: All arguments that it may take.

    Raises:
        RecipeError: As `find` raises it; or the function takes other arguments, or fails. An error
            of quiesce that it raises is raised as it is.
    """
    function = find(name, field)
    try:
        takes = signature(function).parameters.values()
    except (TypeError, ValueError) as error:  # some functions that are written in C
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
            f"{field}: {name} takes {others[0]!r}, and gets {', '.join(offered)} by keyword; give "
            "it a default, or name it so"
        )
    if not any(each.kind is Parameter.VAR_KEYWORD for each in takes):
        names = {each.name for each in takes}
        offered = {key: value for key, value in offered.items() if key in names}
    return run(lambda: function(**offered), f"{field}: {name}")


def run(step: Callable[[], Any], where: str) -> Any:
    """Run code of the user; its error becomes one line with file and line.

    Raises:
        RecipeError: The code raises something; what quiesce raises is left as it is.
    """
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
