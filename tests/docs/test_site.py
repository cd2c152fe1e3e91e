"""The documentation site: built without warnings, without dead links, readable on a phone."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import quiesce
from support.browser import BROWSER, DRIVER, opened

pytest.importorskip("mkdocs", reason="pip install 'quiesce[docs]'")
pytestmark = pytest.mark.slow
BUILD = Path(__file__).parents[2] / "docs" / "site" / "build.py"
WIDE = "return document.documentElement.scrollWidth - innerWidth"


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and not urlsplit(value).scheme:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, str(BUILD), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        if path.name in ("404.html", "toy.html"):
            continue
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                anchor = unquote(parts.fragment)
                assert anchor in pages[target].anchors, f"{path.relative_to(site)}: {link}"


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = Links((site / "index.html").read_text("utf-8")).links
    found = {(site / unquote(urlsplit(link).path)).resolve() for link in listed}
    pages = {path.resolve() for path in site.rglob("*.html") if path.name != "404.html"}
    parts = {site / "docs" / "explanation" / "toy.html"}  # shown inside its page
    assert pages - found - {path.resolve() for path in parts} == set()


def test_every_public_name_has_a_page(site: Path) -> None:
    for name in set(quiesce.__all__) - {"__version__"}:
        text = (site / "docs" / "reference" / "python" / f"{name}.html").read_text("utf-8")
        assert f"quiesce.{name}" in text
        assert "doc-heading" in text
        assert "&gt;&gt;&gt;" in text


@pytest.mark.browser
@pytest.mark.skipif(not (DRIVER and BROWSER), reason="no chromium with its chromedriver here")
def test_pages_fit_a_phone_and_say_nothing_on_the_console(site: Path) -> None:
    pages = sorted(path.relative_to(site) for path in site.rglob("*.html"))
    pages.remove(Path("404.html"))  # its addresses are those of a server
    assert len(pages) > 100
    with opened() as open_page:
        for name in pages:
            page = open_page(site / name, width=390, wait=False)
            assert page.run(WIDE) <= 0, name
            # a search index is not loaded from a file: address
            heard = [each for each in page.console() if "search" not in each]
            assert heard == [], name
        toy = open_page(site / "docs" / "explanation" / "toy.html", width=390, wait=False)
        toy.run("return new Promise((next) => setTimeout(next, 2000))")
        assert toy.run("return document.querySelectorAll('svg path').length") > 10
        assert toy.run(WIDE) <= 0
        assert toy.console() == []
