"""YAML and JSON that are larger or deeper than they look."""

import pytest
import yaml

from quiesce.files.untrusted.yaml_and_json import (
    DEEPEST,
    LARGEST_YAML,
    parse_json,
    parse_yaml,
    read_yaml,
)


def laughs(inner: str, levels: int = 9) -> str:
    """Aliases of aliases, each nine times: 9^levels values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(levels):
        aliases = ", ".join([f"*a{level}"] * 9)
        lines.append(f"a{level + 1}: &a{level + 1} {inner % aliases}")
    return "\n".join(lines)


@pytest.mark.parametrize("inner", ["[%s]", "{<<: [%s]}"], ids=["lists", "merged"])
def test_aliases_can_not_make_a_small_file_large(inner) -> None:
    with pytest.raises(ValueError, match="too large with its aliases expanded"):
        parse_yaml(laughs(inner))
    assert parse_yaml(laughs(inner, levels=2)) == yaml.safe_load(laughs(inner, levels=2))


def test_long_texts_count_as_long() -> None:
    aliases = ", ".join(["*a"] * 2000)
    with pytest.raises(ValueError, match="too large with its aliases expanded"):
        parse_yaml(f"a: &a {'x' * 1000}\nb: [{aliases}]")


def test_what_stands_inside_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\*a contains itself"):
        parse_yaml("a: &a [1, *a]")


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_nesting_has_an_end(parse) -> None:
    for depth in (DEEPEST + 1, 50_000):
        with pytest.raises(ValueError, match=f"nested more than {DEEPEST} deep"):
            parse("[" * depth + "]" * depth)
    assert parse("[" * 50 + "]" * 50)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: !!int x",
        "a: 2001-13-45",
        "a: " + "9" * 5000,
        "a: !!timestamp x",
        'a: "b\\0"',
        "[a]: b",
        "a: *b",
        "a: [",
    ],
)
def test_yaml_that_can_not_be_plain_values_is_one_line(text) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        parse_yaml(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "9" * 5000, "\0"])
def test_what_is_no_json_is_a_value_error(text) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_json(text)


def test_a_yaml_file_has_a_largest_size(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n#" + "x" * (LARGEST_YAML - 6))
    assert read_yaml(path) == {"a": 1}
    path.write_text("a: 1\n#" + "x" * (LARGEST_YAML - 5))
    with pytest.raises(ValueError, match=r"larger than 0\.125 MB"):
        read_yaml(path)
