"""Functions of the user by `module:name`: found, called with what they take, explained."""

import sys

import pytest

from quiesce.errors import DataError, RecipeError
from quiesce.user_code import call, find, is_user_code

SOURCE = """
from quiesce.errors import DataError

number = 3

def nothing():
    return "nothing"

def seeded(seed):
    return seed

def anything(**given):
    return given

def other(path):
    return path

def positional(seed, /):
    return seed

def fails(seed):
    return 1 / 0

def refuses():
    raise DataError("no images")
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder, forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_functions.py").write_text(SOURCE, "utf-8")
    yield "own_functions"
    for name in ("own_functions", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["a:b", "a.b_2:C", "_a:b"])
def test_names_of_user_code(name):
    assert is_user_code(name)


@pytest.mark.parametrize("name", [None, "a", "a:", ":b", "a:b.c()", "a b:c", "hf-hub:x", "a:b:c"])
def test_other_names(name):
    assert not is_user_code(name)


@pytest.mark.parametrize(
    ("name", "returned"),
    [("nothing", "nothing"), ("seeded", 5), ("anything", {"config": 1, "seed": 5})],
)
def test_a_function_gets_what_it_takes(module, name, returned):
    assert call(f"{module}:{name}", "data.name", config=1, seed=5) == returned


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("own_functions:seeeded", "did you mean 'seeded'"),
        ("own_functions:number", "no function or class 'number'"),
        ("own_functions:other", "takes 'path', but gets config, seed"),
        ("own_functions:positional", "takes 'seed'"),
        ("own_functions:fails", "own_functions.py, line 22: ZeroDivisionError"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("own_functions.inner:f", "no module 'own_functions.inner'"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_field(name, told):
    with pytest.raises(RecipeError) as raised:
        call(name, "data.name", config=1, seed=5)
    assert str(raised.value).startswith("data.name: ")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [("import absent_module", "ModuleNotFoundError"), ("x = (", "line 1: SyntaxError")],
)
def test_a_module_that_can_not_be_imported_is_named_with_the_line(source, told, tmp_path):
    (tmp_path / "broken.py").write_text(source, "utf-8")
    with pytest.raises(RecipeError, match=r"importing broken fails in broken\.py, ") as raised:
        find("broken:f", "metric")
    assert told in str(raised.value)


def test_an_error_of_quiesce_stays_what_it_is(module):
    with pytest.raises(DataError, match=r"^no images$"):
        call(f"{module}:refuses", "data.name")
