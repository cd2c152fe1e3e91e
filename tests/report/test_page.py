"""The page as a text: what it says, what it holds, and what cannot get into it."""

import json
import re
import subprocess
import sys

import pytest

from quiesce.report.collect import collect
from quiesce.report.page import embedded, page
from support.made_runs import Made, make_run, make_sweep, write_json

MEGABYTE = 1_000_000
EVIL = '</script><script>document.title="evil"</script><b onclick="x">%{x} {{ 7 * 7 }}'


def words(html):
    """What is said outside of scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "lsq")
    frozen = Made(name="freeze", cure="freeze", oscillating=0.002, frozen=0.3, kl=0.01)
    make_run(folder / "freeze", frozen)
    return page(collect([folder / "lsq", folder / "freeze"]))


def test_the_page_holds_all_it_needs(whole):
    assert whole.count("plotly.js v") == 1
    assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?!data:)", whole) == []
    assert "default-src 'none'" in whole


def test_every_section_has_charts(whole):
    assert 'class="instead"' not in whole
    figures = re.findall(r'<script type="application/json">(.*?)</script>', whole)
    # 4 of training, 3 schedules (rate, threshold, frozen), heat maps, offsets and codes (2 by run
    # and 1 over all), trajectories, KL and 3 over time, probes
    assert len(figures) == 4 + 3 + 2 + (2 + 1) + (2 + 1) + 2 + (1 + 3) + 2
    for figure in figures:
        assert json.loads(figure)["data"]


def test_every_chart_is_told_to_those_who_can_not_see_it(whole):
    told = re.findall(r'class="plot" role="img" aria-label="([^"]+)"', whole)
    assert len(told) == whole.count('class="plot"')
    assert len(set(told)) > len(told) / 2
    assert all(re.search(r"\d", alt) for alt in told)


def test_missing_files_say_how_to_get_them(tmp_path):
    folder = make_run(tmp_path / "a run", diagnosed=False, recorded=False, probed=False)
    said = " ".join(words(page(collect([folder]))).split())
    assert f"A diagnosis measures it: quiesce diagnose &#39;{folder}&#39;" in said
    assert f"A probe measures it: quiesce probe &#39;{folder}&#39;" in said
    assert "recording.trajectory_steps" in said
    assert "There is no layers.csv" in said


def test_a_run_that_was_cut_off_is_reported_and_said(tmp_path):
    folder = make_run(tmp_path / "run", finished=False, diagnosed=False, recorded=False)
    said = words(page(collect([folder])))
    assert "step 330" in said
    assert "Training loss" in said


def test_a_run_without_oscillation_says_so(quiet_run):
    said = words(page(collect([quiet_run])))
    assert "No weight oscillates: none has a frequency above 0.005." in said
    assert "Nothing needs to be changed." in said
    assert "Nothing to probe. No low-bit weight oscillates." in said


def test_the_page_starts_with_what_was_trained(tmp_path):
    folder = make_run(tmp_path / "run")
    write_json(folder / "shipped.json", {"version": 1, "bytes": 31_400, "milliseconds": 0.42})
    html = page(collect([folder]))
    said = " ".join(words(html).split())
    assert said.index("small_net") < said.index("weights oscillate")
    assert said.index("What network?") < said.index("What to do?") < said.index("The evidence")
    table = said[said.index("runs network bits") : said.index("Headline numbers")]
    for fact in ("small_net", "W3A4, first and last 8", "made_up", "20 in float, 30", "31.4"):
        assert fact in table
    kilobytes = sum(layer[2] * layer[3] for layer in Made().layers) / 8 / 1000
    assert f"{kilobytes:.1f}" in table
    assert "0.42" in table


def test_an_answer_that_all_runs_share_is_given_once(tmp_path):
    for name, cure in (("one", "none"), ("two", "freeze")):
        make_run(tmp_path / name, Made(name=name, cure=cure))
    said = " ".join(words(page(collect([tmp_path / "one", tmp_path / "two"]))).split())
    opening = said[: said.index("The evidence")]
    assert opening.count("3 for weights") == 1
    assert opening.count("Yes: it still costs") == 1  # the same numbers
    assert opening.count("points more") == 1
    assert opening.count("cure.") == 2


def test_what_no_file_tells_has_no_column(tmp_path):
    said = " ".join(words(page(collect([make_run(tmp_path / "run")]))).split())
    assert "latency" not in said
    assert "Not measured: quiesce report RUN --time" in said
    assert "file, kB" not in said


def test_heat_maps_of_many_layers_are_folded(tmp_path):
    html = page(collect([make_run(tmp_path / "wide", Made(blocks=25))]))
    assert html.count('<details class="folded"><summary>wide: 50 layers</summary>') == 3
    assert 'class="folded"' not in page(collect([make_run(tmp_path / "narrow")]))


def test_a_sweep_has_its_table_and_its_ablation(tmp_path):
    folder = make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01, 0.02])
    html = page(collect([folder]))
    said = words(html)
    assert "What the setting does" in said
    assert "Not started yet: 1 planned run." in said
    assert "97.8 ± 0.0" in said
    assert "Least oscillation" in said


@pytest.fixture
def evil_run(tmp_path):
    """A run whose recipe, layers and versions carry code for the page to run."""
    folder = make_run(tmp_path / "run")
    for file in ("summary.json", "diagnosis.json"):
        text = (folder / file).read_text("utf-8").replace("blocks.2.conv_dw", "NAME")
        tree = json.loads(text.replace("made_lsq_w3a3", "NAME").replace("0.1.0", "NAME"))
        write_json(
            folder / file, json.loads(json.dumps(tree).replace("NAME", json.dumps(EVIL)[1:-1]))
        )
    table = (folder / "layers.csv").read_text("utf-8")
    cell = '"' + EVIL.replace('"', '""') + '"'
    (folder / "layers.csv").write_text(table.replace("blocks.2.conv_dw", cell), "utf-8")
    return folder


def test_names_are_text_and_nothing_else(evil_run):
    html = page(collect([evil_run]))
    assert "document.title=" in html  # the name is shown
    assert EVIL not in html
    assert "<script>document" not in html
    assert "<b onclick" not in html
    assert html.count("</script>") == html.count("<script")  # no name closes or opens one
    for figure in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL):
        assert "<" not in figure
        json.loads(figure)


def test_embedded_json_reads_back_the_same():
    tree = [EVIL, "<!--", "\u2028", "&lt;"]
    inside = embedded(json.dumps(tree, ensure_ascii=False))
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == tree


@pytest.mark.parametrize(("weights", "blocks"), [(5_000, 6), (5_000_000, 100)])
def test_the_page_is_below_8_megabytes(weights, blocks, tmp_path):
    names = [f"run{i}" for i in range(3)]
    for name in names:
        made = Made(name=name, weights=weights, blocks=blocks, steps=20_000)
        make_run(tmp_path / name, made)
    assert len(page(collect([tmp_path / name for name in names])).encode()) < 8 * MEGABYTE


def test_a_report_imports_no_torch(tmp_path):
    folder = make_run(tmp_path / "run")
    code = """
import sys
from quiesce.cli import main
sys.exit(main(["report", *sys.argv[1:]]) or (3 if "torch" in sys.modules else 0))
"""
    output = tmp_path / "report.html"
    ran = subprocess.run([sys.executable, "-c", code, folder, "-o", output], check=False)
    assert ran.returncode == 0
    assert output.stat().st_size > MEGABYTE
