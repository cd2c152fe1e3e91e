"""A comparison as text: means, differences, CSV, Markdown."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quiesce
from quiesce.comparison.compare import compare
from quiesce.comparison.tables import csv_text, differences, legend, markdown, spreads
from quiesce.errors import RecipeError


@pytest.fixture
def compared(make_run):
    runs = [make_run(f"l{seed}", seed=seed, top1=90 + seed) for seed in range(3)]
    runs += [
        make_run(f"f{seed}", name="freeze", seed=seed, top1=91 + seed + (seed == 2))
        for seed in range(3)
    ]
    cut = make_run("cut", seed=3, finished=False)
    return compare([*runs, cut], baseline="lsq")


def test_each_group_is_a_row_of_means(compared):
    head, lsq, freeze = spreads(compared)
    assert head == ["recipe", "n", "pre-BN", "post-BN", "loss", "oscil.", "depth-w.", "frozen"]
    assert lsq[:5] == ["lsq", "3", "91.00 ± 1.00", "91.00 ± 0.00", "0.5000 ± 0.0000"]
    assert freeze[2] == "92.33 ± 1.53"  # 91, 92, 94
    assert lsq[5:] == ["2.00 ± 0.00", "3.00 ± 0.00", "0.00 ± 0.00"]  # shares are shown in percent


def test_each_difference_has_its_interval_and_how_it_was_made(compared):
    head, first, *others = differences(compared)
    assert head == ["minus lsq", "measure", "difference", "95% interval", "interval from"]
    # differences 1, 1, 2: mean 4/3, standard error 1/3, t(2) = 4.3027
    assert first == ["freeze", "pre-BN", "+1.33", "-0.10 to +2.77", "paired, 3 seeds"]
    assert [row[0] for row in others] == [""] * 5


def test_one_seed_says_that_it_has_no_interval(make_run):
    found = compare([make_run("a"), make_run("b", name="freeze", top1=92)], baseline="lsq")
    assert spreads(found)[1][2] == "90.00"
    assert differences(found)[1] == ["freeze", "pre-BN", "+2.00", "", "none: n = 1"]


def test_other_seeds_are_compared_unpaired(make_run):
    runs = [make_run(f"a{seed}", seed=seed) for seed in (0, 1)]
    runs += [make_run(f"b{seed}", name="freeze", seed=seed) for seed in (1, 2, 3)]
    assert differences(compare(runs, baseline="lsq"))[1][4] == "Welch, 2 seeds or more each"


def test_without_a_baseline_there_are_no_differences(make_run):
    found = compare([make_run("a")])
    assert differences(found) == []
    assert "interval" not in legend(found)


def test_csv_holds_every_number_in_the_units_of_the_summary(compared):
    rows = list(csv.DictReader(io.StringIO(csv_text(compared))))
    assert len(rows) == 2 * 6
    by_key = {(row["recipe"], row["measure"]): row for row in rows}
    top1 = by_key["freeze", "pre_bn"]
    assert (top1["unit"], top1["n"], top1["seeds"]) == ("percent", "3", "0 1 2")
    assert float(top1["mean"]) == pytest.approx(277 / 3)
    assert float(top1["difference"]) == pytest.approx(4 / 3)
    assert (top1["baseline"], top1["interval"], top1["interval_n"]) == ("lsq", "paired", "3")
    share = by_key["lsq", "oscillating"]
    assert (share["unit"], share["mean"], share["difference"]) == ("share", "0.02", "")


def test_csv_has_a_column_for_each_field_that_differs(make_run):
    found = compare([make_run("a", cure={"x": 1}), make_run("b", cure={"x": 2})])
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert {row["cure.x"] for row in rows} == {"1", "2"}


def test_markdown_holds_both_tables_and_what_was_left_out(compared):
    text = markdown(compared)
    assert "| lsq | 3 | 91.00 ± 1.00 |" in text
    assert "| freeze | pre-BN | +1.33 | -0.10 to +2.77 | paired, 3 seeds |" in text
    assert re.search(r"- left out: .*cut: cut off\n", text)


def test_a_name_can_not_break_out_of_its_cell(make_run):
    assert r"| a\|b |" in markdown(compare([make_run("a", name="a|b")]))


def test_a_measure_that_no_run_has_is_no_column(make_run):
    run = make_run("a")
    summary = json.loads((run / "summary.json").read_text())
    summary["top1_percent"]["reestimated"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    assert "post-BN" not in spreads(compare([run]))[0]


def test_a_sweep_names_its_baseline_and_a_missing_one_is_none(make_run, tmp_path):
    make_run("sweep/a")
    make_run("sweep/b", name="freeze")
    listing = {"version": 1, "runs": [{"folder": "a"}, {"folder": "b"}]}
    for baseline, expected in (("lsq", "lsq"), ("gone", None)):
        (tmp_path / "sweep/sweep.json").write_text(json.dumps({**listing, "baseline": baseline}))
        found = compare([tmp_path / "sweep"]).baseline
        assert (found and found.label) == expected


def test_nothing_finished_is_refused(make_run):
    with pytest.raises(RecipeError, match=r"no run is finished: .*a: cut off"):
        compare([make_run("a", finished=False)])


def test_mixed_data_can_be_asked_for(make_run):
    runs = [make_run("a"), make_run("b", name="x", data={"name": "cifar10"})]
    with pytest.raises(RecipeError, match="different data"):
        compare(runs)
    assert len(compare(runs, mixed_data=True).groups) == 2


def test_it_works_without_torch(make_run):
    code = f"""
import sys, types
quiesce = types.ModuleType("quiesce")
quiesce.__path__ = [{str(Path(quiesce.__file__).parent)!r}]
sys.modules |= {{"quiesce": quiesce, "torch": None}}
from pathlib import Path
from quiesce.comparison.compare import compare
from quiesce.comparison.tables import markdown
sys.stdout.write(markdown(compare([Path({str(make_run("a"))!r})])))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "| lsq | 1 | 90.00 |" in ran.stdout
