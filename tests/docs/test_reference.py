"""Every public name has an example in its docstring; pytest runs them with the source."""

import inspect

import pytest

import quiesce
from quiesce.export.targets.exporting import export

NAMES = sorted(set(quiesce.__all__) - {"__version__"})


def documented(name: str) -> object:
    """The object whose docstring the reference shows: `quiesce.export` is a package."""
    value = getattr(quiesce, name)
    return export if inspect.ismodule(value) else value


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example(name: str) -> None:
    text = inspect.getdoc(documented(name)) or ""
    head, found, example = text.partition("Examples:\n")
    assert head.strip()
    assert found
    assert ">>> " in example
    assert name in example


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_described_or_says_all_by_its_type(name: str) -> None:
    """Of a function: each argument is named in its docstring, but for those that all share."""
    value = documented(name)
    if not inspect.isfunction(value):
        return
    text = inspect.getdoc(value) or ""
    missing = [each for each in inspect.signature(value).parameters if each not in text]
    assert set(missing) <= {"model", "batches", "example_input"}, missing
