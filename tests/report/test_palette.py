"""Contrast, by the formula of WCAG 2.1."""

import pytest

from quiesce.report.palette import DARK, GROUPS, LIGHT, color, dash


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(theme):
    for ground in ("paper", "panel"):
        for text in ("ink", "muted", "good", "bad"):
            assert contrast(theme[text], theme[ground]) >= 4.5
    for name in theme:
        if name.startswith("group") or name == "highlight":
            assert contrast(theme[name], theme["paper"]) >= 3


def test_both_themes_have_the_same_names_and_light_colors_are_told_apart():
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)  # the page finds a partner by the light color


def test_groups_beyond_the_colors_are_told_apart_by_dashes():
    marks = {(color(place), dash(place)) for place in range(4 * len(GROUPS))}
    assert len(marks) == 4 * len(GROUPS)
