"""Dotted names and their short forms."""

from hypothesis import given
from hypothesis import strategies as st

from quiesce.comparison.recipe_fields import dotted, shortened

words = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


def test_a_list_is_a_value_and_an_empty_section_has_none():
    assert dict(dotted({"a": [1, {"b": 2}], "c": {}, "d": {"e": None}})) == {
        "a": [1, {"b": 2}],
        "d.e": None,
    }


def test_a_name_that_ends_another_keeps_both_apart():
    assert shortened(["lr", "weights.lr"]) == {"lr": "lr", "weights.lr": "weights.lr"}


@given(st.lists(words, unique=True))
def test_no_two_short_names_are_alike(names):
    short = shortened(names)
    assert len(set(short.values())) == len(names)
    assert all(name == end or name.endswith(f".{end}") for name, end in short.items())
