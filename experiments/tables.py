"""Writes every table of experiments/*/README.md and docs/results.md from the JSON results.

    python experiments/tables.py            # rewrite the text between the marks of a table
    python experiments/tables.py --check    # only say whether a page would change

A table is between `<!-- table: mnist_w3a3 -->` and `<!-- end -->`.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks" / "results"
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
    """Return a row for each group: means with deviations, and the difference of post-BN."""
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
    """Return a row for each condition: means with deviations over its seeds."""
    rows = [["", "n", *BATCHNORM]]
    for name in results["groups"]:
        runs = [run for run in results["runs"] if run["name"] == name]
        cells = [over([number(run, path) for run in runs], d) for path, d in BATCHNORM.values()]
        rows.append([name, str(len(runs)), *cells])
    return rows


def number(run, path):
    """Return the number of a run at `path`."""
    for key in path:
        run = run[key]
    return run


def over(values, digits):
    """Return mean and deviation of some numbers, as text."""
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.{digits}f}"


def cell(spread, key, digits):
    """Return mean and deviation from results.json, as text; shares in percent."""
    factor = 100 if key in SHARES else 1
    mean = f"{factor * spread['mean']:.{digits}f}"
    return mean if spread["std"] is None else f"{mean} ± {factor * spread['std']:.{digits}f}"


def interval(difference):
    """Return a difference with its interval, marked if it is not paired."""
    if difference is None:
        return ""
    value = f"{difference['value']:+.2f}"
    if difference["low"] is None:
        return f"{value} (one seed)"
    unpaired = " Welch" if difference["method"] == "welch" else ""
    return f"{value} [{difference['low']:+.2f}, {difference['high']:+.2f}]{unpaired}"


LEAST_MS = 0.01
"""Operators that take less in total are left out of a table."""

FILES = {
    "float": "float",
    "ort_int8": "ONNX Runtime's int8",
    "float_residual": "ours, W4A4",
    "ours": "ours, W4A4, `residual: quantized`",
    "ours_a8": "ours, W4A8, `residual: quantized`, `--round-biases`",
    "int4": "ours, `--pack int4`",
    "int4_all": "ours, `--pack int4`, first and last layer at 4 bits too",
}
"""File of benchmarks/inference.py to its name in a table."""


def inference_table(results):
    """Return a row for each file of each network: size, and times for each number of threads."""
    rows = []
    head = ["", "", "bytes / float"]
    for name, found in results["networks"].items():
        head[3:] = [
            f"{what}, {count} thr."
            for count in found["milliseconds"]
            for what in ("ms", "/ ORT int8", "float /")
        ]
        for kind, title in FILES.items():
            numbers = [found["bytes"][kind] / found["bytes"]["float"]]
            for times in found["milliseconds"].values():
                own = times[kind]
                numbers += [own, own / times["ort_int8"], times["float"] / own]
            rows.append([name, title, *(f"{number:.2f}" for number in numbers)])
            name = ""
    rows.insert(0, head)
    return rows


def operators_table(results):
    """Return a row for each operator of the optimised graphs: count and time."""
    kinds = ("float", "ort_int8", "float_residual", "ours", "ours_a8")
    rows = [["", "", *(FILES[kind] for kind in kinds)]]
    for name, found in results["networks"].items():
        operators = [found["operators"][kind] for kind in kinds]
        longest = {}
        for op, (_, milliseconds) in (item for each in operators for item in each.items()):
            longest[op] = max(longest.get(op, 0), milliseconds)
        for op in sorted(longest, key=longest.get, reverse=True):
            if longest[op] >= LEAST_MS:
                rows.append([name, op, *(count_and_time(each.get(op)) for each in operators)])
                name = ""
    return rows


def count_and_time(found):
    """Return the number of operators and their milliseconds, as text; empty if there are none."""
    return "" if found is None else f"{found[0]}: {found[1]:.2f}"


TABLES = {
    "batchnorm": batchnorm_table,
    "inference": inference_table,
    "inference_operators": operators_table,
}
"""Mark to the function that makes its table, if it is not `sweep_table`."""


def results_of(name):
    """Return the results for a table: of an experiment, or of a benchmark."""
    path = HERE / name / "results.json"
    if not path.exists():
        path = BENCHMARKS / f"{name.split('_')[0]}.json"
    return json.loads(path.read_text("utf-8"))


def table_of(mark):
    """Return the table for a mark, as Markdown, with both marks."""
    head, *rows = TABLES.get(mark[2], sweep_table)(results_of(mark[2]))
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
    print(f"{page}: {'tables differ from results.json' if '--check' in sys.argv else 'new'}")
sys.exit("--check" in sys.argv and bool(stale))
