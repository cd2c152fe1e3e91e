"""Schemes: which layer gets what, and values that are refused where they are written."""

import dataclasses
from typing import Any

import pytest

import quiesce as qs
from quiesce.errors import PrepareError
from quiesce.quantization.scheme import LayerScheme

BITS = ["weight_bits", "act_bits", "first_last_bits", "first_input_bits"]
NAMES = ["stem", "body.conv1", "body.conv2", "head"]


def bits_of(scheme: qs.Scheme, names: list[str] = NAMES) -> list[tuple[int, int | None]]:
    """Bits of weight and input, layer by layer."""
    return [(plan.weight_bits, plan.act_bits) for plan in resolved(scheme, names).values()]


def resolved(scheme: qs.Scheme, names: list[str] = NAMES) -> dict[str, LayerScheme]:
    """The plans of a chain of layers."""
    return scheme.resolve(names, first=names[:1], last=names[-1:])


def test_first_and_last_have_eight_bits_and_the_image_stays_float() -> None:
    assert bits_of(qs.Scheme()) == [(8, None), (4, 4), (4, 4), (8, 8)]


def test_first_and_last_can_be_as_all_others() -> None:
    scheme = qs.Scheme(weight_bits=3, act_bits=2, first_last_bits=None)
    assert bits_of(scheme) == [(3, None), (3, 2), (3, 2), (3, 2)]


def test_the_first_input_has_bits_of_its_own() -> None:
    assert bits_of(qs.Scheme(first_input_bits=7))[0] == (8, 7)


def test_float_activations_stay_float_in_the_last_layer_too() -> None:
    assert bits_of(qs.Scheme(act_bits=None)) == [(8, None), (4, None), (4, None), (8, None)]


def test_a_single_layer_is_first_and_last() -> None:
    assert bits_of(qs.Scheme(), ["only"]) == [(8, None)]


def test_no_layers_give_no_plans() -> None:
    assert resolved(qs.Scheme(), []) == {}


def test_of_overrides_the_last_match_wins_also_over_first_and_last() -> None:
    overrides = {
        "body.*": {"weight_bits": 2, "per_channel": True},
        "*conv2": {"weight_bits": 5},
        "stem": {"act_bits": 6, "ranges": "lsq"},
    }
    scheme = qs.Scheme(overrides=overrides)
    assert bits_of(scheme) == [(8, 6), (2, 4), (5, 4), (8, 8)]
    plans = resolved(scheme)
    assert [plan.per_channel for plan in plans.values()] == [False, True, True, False]
    assert [plan.ranges for plan in plans.values()] == ["lsq", "mse", "mse", "mse"]


@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        (("*",), (), NAMES),
        (("body.*",), (), NAMES[1:3]),
        (("*",), ("*conv?", "head"), NAMES[:1]),
        (("body.*", "head"), ("body.conv1",), NAMES[2:]),
    ],
)
def test_include_and_exclude_select_by_pattern(include, exclude, selected) -> None:
    scheme = qs.Scheme(include=include, exclude=exclude)
    assert [name for name in NAMES if scheme.selects(name)] == selected


@pytest.mark.parametrize(
    "fields",
    [
        {"include": ("stemm",)},
        {"exclude": ("stemm",)},
        {"overrides": {"stemm": {"weight_bits": 8}}},
    ],
)
def test_a_pattern_without_a_layer_is_refused_with_the_nearest_name(fields: dict) -> None:
    [where] = fields
    with pytest.raises(PrepareError, match=f"{where}: 'stemm' matches no layer.*'stem'"):
        qs.Scheme(**fields).check_patterns(NAMES)


@pytest.mark.parametrize(
    "field", ["weight_bits", "act_bits", "first_last_bits", "first_input_bits"]
)
@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range_are_refused_by_the_name_of_the_field(field: str, bits: int) -> None:
    with pytest.raises(ValueError, match=f"{field}`? must be 2 to 8, got {bits}"):
        qs.Scheme(**{field: bits})


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"weight_bits": None}, TypeError, "weight_bits`? must be an integer"),
        ({"ranges": "best"}, ValueError, "ranges`? must be one of"),
        ({"clip": "best"}, ValueError, "clip`? must be one of"),
        ({"include": "*"}, TypeError, "include`? must be a sequence"),
        ({"exclude": "head"}, TypeError, "exclude`? must be a sequence"),
        ({"overrides": {"*": {"bits": 3}}}, ValueError, "sets 'bits'; it may set act_bits"),
        ({"overrides": {"*": {"weight_bits": 1}}}, ValueError, "weight_bits`? must be 2 to 8"),
        ({"overrides": {"*": {"ranges": "best"}}}, ValueError, "ranges`? must be one of"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        qs.Scheme(**fields)


def test_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        qs.Scheme().weight_bits = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="positional"):
        qs.Scheme(4)  # pyright: ignore[reportCallIssue]
