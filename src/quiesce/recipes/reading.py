"""From the name of a shipped recipe, or a YAML file, and flags to a checked `Recipe`.

jsonargparse knows the types, the flags and the help; all three come from the dataclasses. What is
wrong becomes one line that names the file or flag, the field, and the nearest right name.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from quiesce.errors import RecipeError
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.yaml_and_json import read_yaml
from quiesce.recipes.catalog import SHIPPED, shipped_recipes
from quiesce.recipes.recipe import VERSION, Recipe
from quiesce.run_folder.folder import RECIPE
from quiesce.user_code import TRUST


def find_recipe(recipe: str) -> Path:
    """Return the YAML file of a shipped name or a path.

    Raises:
        RecipeError: There is neither; the message says which name is nearest.
    """
    shipped = SHIPPED / f"{recipe}.yaml"
    if recipe in shipped_recipes():
        return shipped
    path = in_home(recipe)
    if path.is_file():
        return path
    if (path / RECIPE).is_file():
        raise RecipeError(
            f"{recipe} is the folder of a run; quiesce train --resume {recipe} goes on with it, "
            f"and quiesce train {path / RECIPE} begins another"
        )
    if path.suffix in (".yaml", ".yml") or path.exists():
        raise RecipeError(f"{recipe}: no such file; `quiesce recipes` lists the shipped recipes")
    near = _nearest(recipe, shipped_recipes()) or "`quiesce recipes` lists what there is"
    raise RecipeError(f"unknown recipe {recipe!r}; {near}")


def read_recipe(recipe: str, flags: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check every field of it.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        flags: What overrides it, as on the command line: ["--seed", "3", "--data.workers=2"].
            `TRUST` among them allows what `refuse_untrusted` refuses.

    Raises:
        RecipeError: No such recipe, an unknown field, a wrong type or a value out of range; or it
            is the recipe of a run folder and names code of the user. The message is one line.
    """
    path = find_recipe(recipe)
    trusted = TRUST in flags or path.name != RECIPE
    flags = [flag for flag in flags if flag != TRUST]
    tree = _load(path)
    refuse_newer(str(path), tree.get("version"), VERSION)
    _refuse_unknown(tree, Recipe, str(path))
    parser = _parser()
    values = _parse(lambda: parser.parse_object(tree, defaults=True), str(path))
    values = _parse(lambda: parser.parse_args(list(flags), namespace=values), "flags")
    built: Recipe = _build(Recipe, values, where=recipe, prefix="")
    if not trusted:
        refuse_untrusted(built, path, flags)
    return built


def refuse_untrusted(recipe: Recipe, path: Path, flags: Sequence[str]) -> None:
    """Refuse code that the recipe of a run folder names: the folder may be from anywhere.

    Raises:
        RecipeError: A field names a function of the user, and no flag names it again.
    """
    given = {flag.removeprefix("--").partition("=")[0] for flag in flags}
    for field, name in recipe.user_code.items():
        if field not in given:
            raise RecipeError(
                f"{path}: {field} is {name}, which is code to run. If you trust this folder, add "
                f"{TRUST}, or name it again: --{field} {name}"
            )


def change_recipe(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """Return `recipe` with other values in some fields, checked like a recipe that is read.

    Args:
        recipe: Stays as it is.
        changes: Dotted field to value: {"cure.strength.end": 0.1}; a mapping replaces a whole
            section, whose other fields get their defaults.
        where: What made the changes; the message of an error begins with it.

    Raises:
        RecipeError: An unknown field, a wrong type or a value out of range.
    """
    tree = recipe.tree()
    for field, value in changes.items():
        *sections, last = field.split(".")
        section = tree
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    _refuse_unknown(tree, Recipe, where)
    values = _parse(lambda: _parser().parse_object(tree, defaults=True), where)
    return _build(Recipe, values, where, prefix="")


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that `read_recipe` reads to an equal recipe."""
    return yaml.safe_dump(recipe.tree(), sort_keys=False)


def recipe_parser(usage: str | None = None) -> ArgumentParser:
    """Return a parser with one flag for each field of a recipe, whose text is its help."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(usage=usage, exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(Recipe, nested_key=None)
    return parser


@cache
def _parser() -> ArgumentParser:
    """The parser that reads, made once: that takes longer than to read a recipe."""
    return recipe_parser()


def load_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        RecipeError: It can not be read, or is no YAML.
    """
    try:
        return read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: can not be read as text: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    tree = load_yaml(path)
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields to values, got {tree!r:.60}")
    tree.setdefault("name", path.stem)
    if tree.get("compile") is False:  # YAML reads the word off as false
        tree["compile"] = "off"
    return tree


def _refuse_unknown(tree: dict[str, Any], cls: Any, where: str, prefix: str = "") -> None:
    """Walk `tree` beside its dataclasses and name the first field that is not there."""
    hints = get_type_hints(cls)
    for key, value in tree.items():
        if key not in hints:
            near = _nearest(str(key), hints) or f"fields here: {', '.join(hints)}"
            raise RecipeError(f"{where}: unknown field `{prefix}{key}`; {near}")
        if dataclasses.is_dataclass(hint := hints[key]):
            if not isinstance(value, dict):
                raise RecipeError(
                    f"{where}: `{prefix}{key}` is a section of fields, got {value!r:.60}"
                )
            _refuse_unknown(value, hint, where, f"{prefix}{key}.")
        elif value is None and type(None) not in get_args(hint):  # which jsonargparse lets through
            raise RecipeError(f"{where}: `{prefix}{key}` must be {_kind(hint)}, got null")
        elif not _takes_text(hint) and any("&" in text for text in _texts(value)):
            # jsonargparse reads such a text as YAML and writes its aliases out in the message
            raise RecipeError(f"{where}: `{prefix}{key}` must be {_kind(hint)}, got {value!r:.60}")


def _takes_text(hint: Any) -> bool:
    return hint is str or (get_origin(hint) in (Union, UnionType) and str in get_args(hint))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _parse(step: Callable[[], Namespace], where: str) -> Namespace:
    """Run one step of jsonargparse; its error becomes one line."""
    try:
        return step()
    except ArgumentError as error:
        raise RecipeError(f"{where}: {_one_line(error)}") from error
    except OverflowError as error:  # a whole number of hundreds of digits where a float belongs
        raise RecipeError(f"{where}: a number is too large") from error


def _one_line(error: ArgumentError) -> str:
    text = str(error)
    if match := re.match(r"unrecognized arguments: (\S+)", text, re.IGNORECASE):
        word = match[1].split("=")[0]
        if not word.startswith("--"):
            return f"unexpected word {word!r}; flags are --field.name value"
        names = [name for name, _ in _fields(Recipe)]
        near = _nearest(word.removeprefix("--"), names) or "see `quiesce train RECIPE --help`"
        return f"unknown field `{word.removeprefix('--')}`; {near}"
    fields = dict(_fields(Recipe))
    if (match := re.search(r"Parser key \"([\w.]+)\"", text)) and match[1] in fields:
        got = re.search(r"(?:Got value|Given value): (.*)", text)
        hint = fields[match[1]]
        near = _nearest(got[1], map(str, get_args(hint))) if got else None
        return (
            f"`{match[1]}` must be {_kind(hint)}, got {got[1] if got else 'something else'}"
            f"{f'; {near}' if near else ''}"
        )
    return " ".join(text.split())


def _fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every field that holds a value."""
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def _kind(hint: Any) -> str:
    """A type as a user of YAML says it: "a whole number or null"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if hint in words:
        return words[hint]
    if hint is type(None):
        return "null"
    arguments: tuple[Any, ...] = getattr(hint, "__args__", ())
    if str(hint).startswith("typing.Literal"):
        return "one of " + ", ".join(map(str, arguments))
    if getattr(hint, "__origin__", None) is tuple:
        return f"a list, each {_kind(arguments[0])}"
    if getattr(hint, "__origin__", None) is dict:
        return "a mapping"
    kinds = [_kind(each) for each in arguments if not (each is int and float in arguments)]
    return " or ".join(kinds)


def _build(cls: Any, values: Namespace, where: str, prefix: str) -> Any:
    """Make the dataclasses from the inside out; a refused value is named by its whole path."""
    inner = {}
    for name, hint in get_type_hints(cls).items():
        value = getattr(values, name)
        nested = dataclasses.is_dataclass(hint)
        inner[name] = _build(hint, value, where, f"{prefix}{name}.") if nested else value
    try:
        return cls(**inner)
    except (ValueError, TypeError) as error:
        section = f" {prefix[:-1]}:" if prefix else ""
        raise RecipeError(f"{where}:{section} {error}") from error


def _nearest(word: str, known: Iterable[str]) -> str | None:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else None
