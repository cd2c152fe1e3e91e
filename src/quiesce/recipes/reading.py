"""Reads a recipe from the name of a shipped recipe, or a YAML file, and flags.

The dataclasses of a recipe define its fields and their types: msgspec checks values against them,
and jsonargparse prints them as help. An error is one line that names the file or flag, the field,
and the closest valid name.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from quiesce.errors import RecipeError, did_you_mean
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.format_version import refuse_newer
from quiesce.files.untrusted.typed_trees import typed
from quiesce.files.untrusted.yaml_and_json import parse_yaml, read_yaml
from quiesce.recipes.catalog import SHIPPED, shipped_recipes
from quiesce.recipes.recipe import VERSION, Recipe
from quiesce.run_folder.folder import RECIPE
from quiesce.user_code import TRUST

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def find_recipe(recipe: str) -> Path:
    """Return the YAML file of a shipped name or a path; the RecipeError suggests a name."""
    shipped = SHIPPED / f"{recipe}.yaml"
    if recipe in shipped_recipes():
        return shipped
    path = in_home(recipe)
    if path.is_file():
        return path
    if (path / RECIPE).is_file():
        raise RecipeError(
            f"{recipe} is the folder of a run; quiesce train --resume {recipe} continues it, and "
            f"quiesce train {path / RECIPE} starts another one"
        )
    if path.suffix in (".yaml", ".yml") or path.exists():
        raise RecipeError(f"{recipe}: no such file; `quiesce recipes` lists the shipped recipes")
    near = did_you_mean(recipe, shipped_recipes()) or "`quiesce recipes` lists all"
    raise RecipeError(f"unknown recipe {recipe!r}; {near}")


def read_recipe(recipe: str, flags: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check all its fields.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        flags: Flags that override it, as on the command line: ["--seed", "3", "--data.workers=2"].
            The flag `TRUST` permits what `refuse_untrusted` refuses.

    Raises:
        RecipeError: There is no such recipe, a field is unknown, or a value has a wrong type or is
            out of range; or it is the recipe of a run folder and refers to user code. The message
            is one line.
    """
    path = find_recipe(recipe)
    trusted = TRUST in flags or path.name != RECIPE
    flags = [flag for flag in flags if flag != TRUST]
    tree = _load(path)
    refuse_newer(str(path), tree.get("version"), VERSION)
    values = checked_fields(Recipe, tree, str(path))
    for field, value in _flag_values(flags):
        _put(values, field, value)
    built: Recipe = _build(Recipe(name="recipe"), values, recipe)
    if not trusted:
        refuse_untrusted(built, path, flags)
    return built


def refuse_untrusted(recipe: Recipe, path: Path, flags: Sequence[str]) -> None:
    """Raise a RecipeError for user code in the recipe of a run folder that no flag names again."""
    given = {flag.removeprefix("--").partition("=")[0] for flag in flags}
    for field, name in recipe.user_code.items():
        if field not in given:
            raise RecipeError(
                f"{path}: {field} is {name}, which is code to run. If you trust this folder, add "
                f"{TRUST}, or name it again: --{field} {name}"
            )


def change_recipe(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """Return `recipe` with changed fields, checked like a recipe from a file.

    Args:
        changes: Dotted field to value: {"cure.strength.end": 0.1}; a mapping replaces a whole
            section and resets its other fields to their defaults.
        where: Source of the changes; error messages begin with it.

    Raises:
        RecipeError: A field is unknown, or a value has a wrong type or is out of range.
    """
    tree = recipe.tree()
    for field, value in changes.items():
        _put(tree, field, value)
    return _build(Recipe(name="recipe"), checked_fields(Recipe, tree, where), where)


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that `read_recipe` restores."""
    return yaml.safe_dump(recipe.tree(), sort_keys=False)


def number_kind(field: str, where: str) -> type[int] | type[float] | None:
    """Return int or float if a dotted field takes whole or any numbers; None if it takes none.

    Raises:
        RecipeError: There is no such field; the message begins with `where`.
    """
    kinds = dict(_fields(Recipe))
    if field not in kinds:
        near = did_you_mean(field, kinds) or "see `quiesce train RECIPE --help`"
        raise RecipeError(f"{where}: unknown field `{field}`; {near}")
    takes = get_args(kinds[field]) or (kinds[field],)
    return float if float in takes else int if int in takes else None


def recipe_parser(usage: str | None = None) -> "ArgumentParser":
    """Return a parser with one flag for each field of a recipe, for help and completion."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(usage=usage, exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(Recipe, nested_key=None)
    return parser


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file; raise a RecipeError if it is not readable YAML."""
    try:
        return read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text: {error}") from error
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


def checked_fields(cls: Any, tree: dict[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass in `tree` with values of the right types.

    Args:
        tree: Field to value; a section is a mapping, and stays a dict.
        where: Prefix of error messages.
        prefix: Prefix of field names in error messages.

    Raises:
        RecipeError: A field is unknown, or its value has a wrong type.
    """
    hints = _hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            near = did_you_mean(str(key), hints) or f"fields here: {', '.join(hints)}"
            name = " ".join(f"{prefix}{key}".split())
            raise RecipeError(f"{where}: unknown field `{name}`; {near}")
        values[key] = _typed(value, hints[key], where, f"{prefix}{key}")
    return values


def _flag_values(flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield dotted field and checked value of each flag."""
    kinds = dict(_fields(Recipe))
    words = iter(flags)
    for word in words:
        field, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise RecipeError(f"flags: unexpected word {word!r}; flags are --field.name value")
        if field not in kinds:
            near = did_you_mean(field, kinds) or "see `quiesce train RECIPE --help`"
            raise RecipeError(f"flags: unknown field `{field}`; {near}")
        if not equals and (text := next(words, None)) is None:
            raise RecipeError(f"flags: expected one argument after --{field}")
        hint, value = kinds[field], _from_text(text, kinds[field])
        section = dataclasses.is_dataclass(hint)
        if section and isinstance(value, str):  # the path of a YAML file
            value = load_yaml(in_home(value))
        value = _typed(value, hint, "flags", field)
        yield from _leaves(hint, value, f"{field}.") if section else [(field, value)]


def _leaves(cls: Any, values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        hint = _hints(cls)[name]
        inside = dataclasses.is_dataclass(hint)
        yield from _leaves(hint, value, f"{prefix}{name}.") if inside else [(prefix + name, value)]


def _from_text(text: str, hint: Any) -> Any:
    """Parse the text of a flag as YAML, unless the field takes text."""
    kinds = get_args(hint) or (hint,)
    if type(None) in kinds and text == "null":
        return None
    if all(kind in (str, type(None)) or isinstance(kind, str) for kind in kinds):
        return text
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _put(tree: dict[str, Any], field: str, value: Any) -> None:
    """Set a dotted field of nested dicts."""
    *sections, last = field.split(".")
    for name in sections:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _typed(value: Any, hint: Any, where: str, field: str) -> Any:
    """Return one value with the type of its field; a number may be given as text, as in 1e-3."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: `{field}` is a section of fields, got {value!r:.60}")
        return checked_fields(hint, value, where, f"{field}.")
    if get_origin(hint) is dict and isinstance(value, dict):
        inner = get_args(hint)[1]
        return {str(k): _typed(v, inner, where, f"{field}.{k}") for k, v in value.items()}
    try:
        return typed(value, hint, lax=True)
    except ValueError as error:
        got = "null" if value is None else " ".join(str(value).split())[:60]
        near = did_you_mean(got, map(str, get_args(hint)))
        message = f"{where}: `{field}` must be {_kind(hint)}, got {got}"
        raise RecipeError(f"{message}; {near}" if near else message) from error


def _build(base: Any, values: dict[str, Any], where: str, prefix: str = "") -> Any:
    """Return a section with changed values; an error names the whole path of the invalid value."""
    inner = {}
    for name, value in values.items():
        now = getattr(base, name)
        section = dataclasses.is_dataclass(now)
        inner[name] = _build(now, value, where, f"{prefix}{name}.") if section else value
    try:
        return dataclasses.replace(base, **inner)
    except (ValueError, TypeError) as error:
        section = f" {prefix[:-1]}:" if prefix else ""
        raise RecipeError(f"{where}:{section} {error}") from error


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of every field and section."""
    for name, hint in _hints(cls).items():
        yield f"{prefix}{name}", hint
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{name}.")


def _kind(hint: Any) -> str:
    """Return the YAML name of a type: "a whole number or null"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words |= {type(None): "null", dict: "a mapping", list: "a list"}
    origin, arguments = get_origin(hint), get_args(hint)
    if word := words.get(origin or hint):
        return word
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a list, each {_kind(arguments[0])}"
    return " or ".join(
        _kind(each) for each in arguments if not (each is int and float in arguments)
    )
