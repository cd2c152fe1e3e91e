"""The tree of errors."""

import inspect
import re

import pytest

from quiesce import errors

MINE = [
    each for each in vars(errors).values() if getattr(each, "__module__", "") == errors.__name__
]
KINDS = [each for each in MINE if inspect.isclass(each)]


def test_the_drawing_shows_every_error_and_no_other() -> None:
    drawn = set(re.findall(r"\w+Error(?=  )", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_the_one_root_and_says_what_it_is(kind: type) -> None:
    assert issubclass(kind, errors.QuiesceError)
    assert kind.__doc__


def test_a_missing_extra_is_an_import_error_with_its_cure() -> None:
    with pytest.raises(
        ImportError, match=r"reports needs an extra: pip install 'quiesce\[report\]'"
    ):
        raise errors.MissingExtraError("reports", "report")
