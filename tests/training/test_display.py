"""Progress in a terminal, in a file, and nowhere."""

import io

import pytest
from rich.console import Console

from quiesce.recipes.reading import read_recipe
from quiesce.training import display
from quiesce.training.display import Display
from quiesce.training.run import run


def console(*, terminal, width=80):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


@pytest.fixture
def recipe(tiny_run):
    return read_recipe("mnist_freeze_w3a3", tiny_run)


@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_gets_a_line_that_fits(width, recipe):
    screen = console(terminal=True, width=width)
    with Display(screen) as shown:
        run(recipe, shown)
    text = screen.file.getvalue()
    assert "mnist_freeze_w3a3" in text
    assert "100%" in text
    assert "loss" in text


def test_a_file_gets_one_plain_line_for_each_stage(recipe):
    file = console(terminal=False)
    with Display(file) as shown:
        run(recipe, shown)
    warning, line = file.file.getvalue().splitlines()
    assert warning.startswith("warning: an epoch")
    assert line.startswith("mnist_freeze_w3a3: 2 steps, loss ")


def test_a_log_gets_a_line_now_and_then(recipe, monkeypatch):
    monkeypatch.setattr(display, "LOG_EVERY_S", 0.0)
    file = console(terminal=False)
    with Display(file) as shown:
        run(recipe, shown)
    _, first, *_, last = file.file.getvalue().splitlines()  # the first warns of few steps
    assert first.startswith("mnist_freeze_w3a3: 1 of 2 steps")
    assert last.startswith("mnist_freeze_w3a3: 2 steps")


def test_items_pass_through_unchanged():
    with Display() as shown:
        assert list(shown.track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
