"""The tables of docs from the committed results: performance.md and three pages of how-to/.

Usage: python benchmarks/table.py            # print the table of targets
       python benchmarks/table.py --docs     # write all tables into the pages
       python benchmarks/table.py --check    # only say whether a page would change
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cost_tables
from measuring import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    DOCS / "performance.md",
    *(DOCS / "how-to" / f"{name}.md" for name in ("attach", "cluster", "data")),
]


def at_most(value: float, target: float) -> bool:
    """Return whether a value where lower is better reaches its target."""
    return value <= target


def at_least(value: float, target: float) -> bool:
    """Return whether a value where higher is better reaches its target."""
    return value >= target


# what is measured, its place in the results, its target
TARGETS: list[tuple[str, tuple[str, str, str], float, Callable[[float, float], bool]]] = [
    (
        f"MobileNetV2 96 px batch {batch}, freezing, `model` / float eager",
        ("speed", f"mobilenetv2_{batch}", "freezing model / float eager"),
        1.00,
        at_most,
    )
    for batch in (16, 64)
]
TARGETS += [
    (
        f"MobileNetV2 96 px batch {batch}, freezing, `model` / float compiled",
        ("speed", f"mobilenetv2_{batch}", "freezing model / float compiled"),
        1.10,
        at_most,
    )
    for batch in (16, 64)
]
TARGETS += [
    (
        f"MobileNetV2 96 px batch {batch}, freezing, `quantizers` / float eager",
        ("speed", f"mobilenetv2_{batch}", "freezing quantizers / float eager"),
        1.25,
        at_most,
    )
    for batch in (16, 64)
]
TARGETS += [
    (
        f"{cure} on top of LSQ, batch 16, `{mode}`",
        ("speed", "mobilenetv2_16", f"{cure} / lsq, {mode}"),
        1.02,
        at_most,
    )
    for mode in ("model", "quantizers")
    for cure in ("dampening", "freezing")
]
TARGETS += [
    (
        "tracker step on 100 M weights, 0.5 % flips / clone of them",
        ("speed", "tracker", "tracker step / clone"),
        2.0,
        at_most,
    ),
    (
        "Brevitas, learned scales, same bits / ours, `model`",
        ("speed", "mobilenetv2_16", "brevitas / ours, model"),
        3.0,
        at_least,
    ),
    (
        "peak memory, batch 16, `model` / float",
        ("memory", "mobilenetv2_16", "freezing, model / float eager"),
        1.20,
        at_most,
    ),
    (
        "peak memory, batch 64, `model` / float",
        ("memory", "mobilenetv2_64", "freezing, model / float eager"),
        1.20,
        at_most,
    ),
    (
        "ResNet-18 96 px batch 16, `model` / float eager",
        ("speed", "resnet18", "freezing model / float eager"),
        1.10,
        at_most,
    ),
    (
        "ViT-Tiny 224 px batch 8, `model` / float eager",
        ("speed", "vit_tiny", "freezing model / float eager"),
        1.10,
        at_most,
    ),
    (
        "seconds of the first step, `quantizers`, nothing cached",
        ("first_step", "seconds", "first run"),
        20.0,
        at_most,
    ),
    (
        "seconds of the first step, `quantizers`, with torch's cache on disk",
        ("first_step", "seconds", "second run"),
        5.0,
        at_most,
    ),
]


def rows() -> list[tuple[str, str, str, str]]:
    """Return (what, target, measured, verdict) for every target."""
    files: dict[str, Any] = {}
    table = []
    for what, (name, part, key), target, reached in TARGETS:
        if name not in files:
            path = RESULTS / f"{name}.json"
            files[name] = json.loads(path.read_text()) if path.exists() else {}
        sign = "<=" if reached is at_most else ">="
        found = files[name].get(part, {})
        measured = found.get("ratios", found).get(key)
        if measured is None:
            table.append((what, f"{sign} {target:.2f}", "not measured", ""))
        else:
            verdict = "reached" if reached(measured, target) else "missed"
            table.append((what, f"{sign} {target:.2f}", f"{measured:.2f}", verdict))
    return table


def modes() -> list[tuple[str, ...]]:
    """Return seconds of a run and of its first step, in each compile mode, for both networks."""
    results = json.loads((RESULTS / "modes.json").read_text())
    names = {"mobilenetv2_mnist": "the demo's network", "mobilenetv2_100": "MobileNetV2 96 px"}
    table = [
        (
            "",
            *(f"{what}, {part}" for what in names.values() for part in ("all steps", "first step")),
        )
    ]
    for mode in ("off", "quantizers", "model"):
        cells = [f"`{mode}`"]
        for name in names:
            runs = [run for key, run in results[name].items() if key.startswith(f"{mode},")]
            for key in ("all_steps_s", "first_step_s"):
                cells.append(" / ".join(f"{run[key]:.1f}" for run in runs))
        table.append(tuple(cells))
    return table


PROFILES = {
    "mobilenetv2_16": "MobileNetV2 96 px, batch 16",
    "resnet18": "ResNet-18 96 px, batch 16",
    "vit_tiny": "ViT-Tiny 224 px, batch 8",
}
PARTS = {
    "convolutions, products": ("conv", "::mm", "addmm", "scaled_dot_product"),
    "compiled kernels": ("## Call CompiledFxGraph",),
    "calls of quantizers": ("FakeQuantize",),
    "copies": ("aten::copy_",),
}
"""Columns of the table of profiles: parts of the names of operators."""


def profiles() -> list[tuple[str, ...]]:
    """Return ms of a step, and self time of its most expensive parts, for each network."""
    results = json.loads((RESULTS / "profiles.json").read_text())
    table = [("", "a step", *PARTS)]
    for network, title in PROFILES.items():
        for way, profile in results[network].items():
            cells = [f"{title}, {way}", f"{profile['ms_per_step']:.0f}"]
            for names in PARTS.values():
                spent_ms = sum(
                    took["ms"]
                    for operator, took in profile["operators"].items()
                    if any(name in operator for name in names)
                )
                cells.append(f"{spent_ms:.0f}")
            table.append(tuple(cells))
    return table


def stacks() -> list[tuple[str, ...]]:
    """Return the cost of tracker and freezing in each toolkit."""
    results = json.loads((RESULTS / "stacks.json").read_text())
    table = [("", "weights", "a step alone", "with the tracker", "with freezing")]
    for name, measured in results.items():
        if isinstance(measured, dict) and "ratios" in measured:
            table.append(
                (
                    name,
                    f"{measured['weights'] / 1e6:.1f} M",
                    f"{median(measured['samples_s']['alone']):.1f} s",
                    *(f"{measured['ratios'][what]:.2f}" for what in ("tracker", "freezing")),
                )
            )
    return table


def page_with_tables(page: str) -> str:
    """Return the page with the text between the marks of each table replaced."""
    tables = {
        "targets": [("what", "target", "measured", ""), *rows()],
        "profiles": profiles(),
        "modes": modes(),
        "stacks": stacks(),
        **cost_tables.tables(),
    }
    for name, (head, *body) in tables.items():
        lines = [head, ("---",) * len(head), *body]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        marks = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        page = re.sub(
            marks, lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL
        )
    return page


def main() -> int:
    """Print the table, update the pages, or say whether they are up to date."""
    if {"--docs", "--check"} & set(sys.argv[1:]):
        stale = 0
        for path in PAGES:
            page = path.read_text("utf-8")
            new = page_with_tables(page)
            if "--docs" in sys.argv[1:]:
                path.write_text(new, "utf-8")
            elif new != page:
                print(f"{path.name} differs from the results; run benchmarks/table.py --docs")
                stale = 1
        return stale
    table = [("what", "target", "measured", ""), *rows()]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
