"""Writes every table of experiments/*/README.md and docs/results.md from the results.json files.

    python experiments/tables.py            # rewrite what stands between the marks of a table
    python experiments/tables.py --check    # only say whether something would change

A table stands between `<!-- table: mnist_w3a3 -->` and `<!-- end -->`.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev

HERE = Path(__file__).parent
PAGES = [*sorted(HERE.glob("*/README.md")), HERE.parent / "docs" / "results.md"]
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

SHARES = ("oscillating", "oscillating_depthwise", "frozen")
COLUMNS = {
    "pre-BN": ("pre_bn", 2),
    "post-BN": ("post_bn", 2),
    "loss": ("train_loss", 4),
    "oscil. %": ("oscillating", 2),
    "depth-w. %": ("oscillating_depthwise", 2),
    "frozen %": ("frozen", 2),
}
"""Column to measure and digits, of the groups of a sweep."""

BATCHNORM = {
    "pre-BN": (("pre_bn",), 1),
    "post-BN": (("post_bn",), 1),
    "loss, running": (("train_loss_in_inference", "running"), 3),
    "loss, re-est.": (("train_loss_in_inference", "reestimated"), 3),
    "KL depth-w.": (("batchnorm_kl_by_kind", "depth-wise"), 5),
    "KL point-w.": (("batchnorm_kl_by_kind", "point-wise"), 5),
    "oscil.": (("oscillating",), 3),
}
"""Column to path in a run and digits, of the search for batch-norm damage."""


def sweep_table(results):
    """A row for each group: means with deviations, and post-BN's difference to the baseline."""
    differs = f"post-BN minus {results['baseline']} [95 %]"
    head = ["", "n", *COLUMNS]
    head.insert(4, differs)
    rows = [head]
    for name, group in results["groups"].items():
        row = [name, str(group["n"]), *(cell(group[key], key, d) for key, d in COLUMNS.values())]
        row.insert(4, interval(group["post_bn"]["difference"]))
        rows.append(row)
    return rows


def batchnorm_table(results):
    """A row for each condition: means with deviations over its seeds."""
    rows = [["", "n", *BATCHNORM]]
    for name in results["groups"]:
        runs = [run for run in results["runs"] if run["name"] == name]
        cells = [over([number(run, path) for run in runs], d) for path, d in BATCHNORM.values()]
        rows.append([name, str(len(runs)), *cells])
    return rows


def number(run, path):
    """Follow `path` into a run."""
    for key in path:
        run = run[key]
    return run


def over(values, digits):
    """Mean and deviation of some numbers."""
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.{digits}f}"


def cell(spread, key, digits):
    """Mean and deviation as results.json has them; shares in percent."""
    factor = 100 if key in SHARES else 1
    mean = f"{factor * spread['mean']:.{digits}f}"
    return mean if spread["std"] is None else f"{mean} ± {factor * spread['std']:.{digits}f}"


def interval(difference):
    """A difference with its interval, and that it is not paired where it is not."""
    if difference is None:
        return ""
    value = f"{difference['value']:+.2f}"
    if difference["low"] is None:
        return f"{value} (one seed)"
    unpaired = " Welch" if difference["method"] == "welch" else ""
    return f"{value} [{difference['low']:+.2f}, {difference['high']:+.2f}]{unpaired}"


def table_of(mark):
    """The table that a mark asks for, as Markdown; it ends above the closing mark."""
    results = json.loads((HERE / mark[2] / "results.json").read_text("utf-8"))
    head, *rows = (batchnorm_table if mark[2] == "batchnorm" else sweep_table)(results)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{mark[1]}\n{text}\n\n{mark[3]}"


stale = []
for page in PAGES:
    old = page.read_text("utf-8")
    new = TABLE.sub(table_of, old)
    if new != old:
        stale.append(page)
        if "--check" not in sys.argv:
            page.write_text(new, "utf-8")
for page in stale:
    print(f"{page}: {'tables are not those of results.json' if '--check' in sys.argv else 'new'}")
sys.exit("--check" in sys.argv and bool(stale))
