"""`quiesce toy`."""

import pytest

from quiesce.cli import main
from quiesce.cures.frozen_limit import log as warnings_of_freezing
from quiesce.toy import METHODS

QUICK = ("toy", "--steps", "40", "--methods", "ste", "freezing")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_prints_frequency_beside_law_and_what_each_method_does(here, capsys):
    assert main([*QUICK[:3]]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(out.split())
    for method in METHODS.values():
        assert any(line.strip().startswith(f"{method.title} ") for line in lines)
        assert f"{method.title}: {method.sentence}" in text
    assert "the page is toy.html" in text
    assert (here / "toy.html").stat().st_size > 10_000


def test_chosen_methods_and_another_file(here, capsys):
    assert main([*QUICK, "-o", "two.html"]) == 0
    out = capsys.readouterr().out
    assert "Freezing" in out
    assert "DSQ" not in out
    assert "Freezing" in (here / "two.html").read_text("utf-8")


def test_of_freezing_the_table_alone_tells(here, capsys, caplog):
    assert main(["toy", "--steps", "100", "--methods", "freezing"]) == 0
    out, err = capsys.readouterr()
    assert "frozen on 0.7333, step" in " ".join(out.split())
    assert err == ""
    assert caplog.records == []
    assert not warnings_of_freezing.disabled  # elsewhere they are told


def test_force_overwrites_a_page(here):
    (here / "toy.html").write_text("old")
    assert main([*QUICK, "--force"]) == 0
    assert (here / "toy.html").read_text("utf-8") != "old"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "freezin"], "unknown method 'freezin'; did you mean 'freezing'?"),
        (["--methods", "xyz"], "unknown method 'xyz'; methods: ste, ewgs,"),
        (["--lr", "0"], "--lr must be above 0 and at most 6, got 0.0"),
        (["--lr", "nan"], "--lr must be above 0 and at most 6, got nan"),
        (["--lr", "much"], "invalid float value: 'much'"),
        (["--scale", "0"], "--scale must be above 0, got 0.0"),
        (["--target", "9"], "--target must be -8.467 to below 8.4, got 9.0"),
        (["--target", "nan"], "--target must be -8.467 to below 8.4, got nan"),
        (["--start", "inf"], "--start must be a finite number, got inf"),
        (["--steps", "1"], "--steps must be at least 20, got 1"),
        (["--momentum", "1"], "--momentum must be 0 to below 1, got 1.0"),
        (["-o", "toy.svg"], "-o must be the name of an .html file, got toy.svg"),
        (["-o", "no/toy.html"], "there is no folder no"),
    ],
)
def test_bad_input_is_refused(refused, flags, message):
    assert message in refused("toy", *flags)


def test_an_existing_page_is_left_alone(refused, tmp_path):
    (tmp_path / "toy.html").write_text("mine")
    assert "toy.html exists already" in refused("toy")


def test_without_plotly_it_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    assert "pip install 'quiesce[report]'" in refused("toy")
