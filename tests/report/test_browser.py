"""The page as people meet it: in a browser, on a laptop and on a phone, light and dark."""

import shutil

import pytest

from quiesce.report.collect import collect
from quiesce.report.page import page
from support.made_runs import Made, make_run, make_sweep

from .test_page import evil_run as evil_run

missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        bool(missing),
        reason=f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver",
    ),
]
WIDTHS = (1440, 390)
OPEN_S = 10.0
"""Generous: a page opens in about half a second where nothing else runs."""


@pytest.fixture(scope="module")
def open_page():
    from support.browser import opened

    with opened() as open_page:
        yield open_page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page about three runs, one about a sweep, one about a run that was cut off."""
    folder = tmp_path_factory.mktemp("pages")
    make_run(folder / "lsq")
    make_run(folder / "dampen", Made(name="dampen", cure="dampen", oscillating=0.01, blocks=20))
    make_run(folder / "freeze", Made(name="freeze", cure="freeze", oscillating=0.002, frozen=0.3))
    make_sweep(folder / "sweep", "cure.threshold.end", [0.005, 0.01, 0.02])
    make_run(folder / "cut", finished=False, diagnosed=False, recorded=False, probed=False)
    wanted = {"runs": ["lsq", "dampen", "freeze"], "sweep": ["sweep"], "cut": ["cut"]}
    for name, runs in wanted.items():
        html = page(collect([folder / run for run in runs]))
        (folder / f"{name}.html").write_text(html, "utf-8")
    return {name: folder / f"{name}.html" for name in wanted}


@pytest.mark.parametrize(
    "name", ["runs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sweep", "cut"))]
)
@pytest.mark.parametrize("width", WIDTHS)
def test_page(name, width, pages, open_page):
    from support.browser import MARKS

    seen = open_page(pages[name], width, "light")
    assert seen.console() == []
    assert seen.requests() == []
    assert seen.overlaps() == []
    assert seen.cut() == []
    assert seen.run("return document.documentElement.scrollWidth") <= width
    assert seen.run("return document.querySelectorAll('.plot svg').length") == 0
    seen.unfold()
    assert seen.console() == []
    assert seen.overlaps() == []
    assert seen.cut() == []
    assert seen.run("return document.documentElement.scrollWidth") <= width
    marks = seen.run(MARKS)
    assert marks
    assert [label for label, count in marks if count == 0] == []
    opened_ms = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert 0 < seen.run(opened_ms) < 1000 * OPEN_S


INK = """
const text = document.querySelector(".plot .xtick text");
return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill,
        getComputedStyle(document.querySelector(".plot .js-line")).stroke];
"""


def test_charts_follow_the_readers_choice_of_light_and_dark(pages, open_page):
    seen = open_page(pages["runs"], 1440, "dark")
    seen.unfold()
    dark = seen.run(INK)
    assert dark == ["rgb(21, 24, 28)", "rgb(164, 171, 181)", "rgb(90, 180, 234)"]
    assert seen.overlaps() == []
    seen.scheme("light")
    assert seen.run(INK) == ["rgb(252, 252, 250)", "rgb(89, 97, 108)", "rgb(0, 114, 178)"]
    assert seen.console() == []


def test_texts_that_overlap_are_found(pages, open_page):
    seen = open_page(pages["cut"], 390, "light")
    seen.run("document.querySelector('h1').style.marginBottom = '-50px'")
    assert seen.overlaps() != []


def test_texts_that_leave_their_chart_are_found(pages, open_page):
    seen = open_page(pages["cut"], 390, "light")
    seen.unfold()
    seen.run("document.querySelector('.xtitle').textContent = 'a title that goes on'.repeat(9)")
    assert len(seen.cut()) == 1


OPEN = (
    "return [...document.querySelectorAll('details.evidence[open]')].map(x => x.parentElement.id)"
)


def test_evidence_opens_by_its_link_and_by_the_button(pages, open_page):
    seen = open_page(pages["runs"], 1440, "light")
    assert seen.run(OPEN) == []
    seen.run("document.querySelector('nav a[href=\"#training\"]').click()")
    seen.run("return new Promise((next) => setTimeout(next, 100))")
    seen.wait()
    assert seen.run(OPEN) == ["training"]
    assert seen.run("return document.querySelectorAll('#training .plot svg').length") > 0
    seen.run("document.getElementById('open-all').click()")
    seen.run("return new Promise((next) => setTimeout(next, 100))")
    seen.wait()
    assert len(seen.run(OPEN)) == seen.run("return document.querySelectorAll('section').length") - 1


def test_names_can_not_run_code(evil_run, open_page):
    path = evil_run / "report.html"
    path.write_text(page(collect([evil_run])), "utf-8")
    seen = open_page(path, 1440, "light")
    seen.unfold()
    assert seen.run("return document.title") == "run · quiesce"
    assert seen.console() == []
    ticks = seen.run(
        "return [...document.querySelectorAll('.ytick text')].map((t) => t.textContent)"
    )
    assert any("{{ 7 * 7 }}" in tick for tick in ticks)  # the end of the name, word for word
