"""The table of targets and what was measured, from the committed results.

Usage: python benchmarks/table.py [--markdown]
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from measuring import RESULTS


def at_most(value: float, target: float) -> bool:
    """Lower is better."""
    return value <= target


def at_least(value: float, target: float) -> bool:
    """Higher is better."""
    return value >= target


# what is measured, where it stands in the results, its target
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
        f"the same, batch {batch} / float compiled",
        ("speed", f"mobilenetv2_{batch}", "freezing model / float compiled"),
        1.10,
        at_most,
    )
    for batch in (16, 64)
]
TARGETS += [
    (
        f"the same, batch {batch}, `quantizers` / float eager",
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
]


def rows() -> list[tuple[str, str, str, str]]:
    """(what, target, measured, verdict) for every target."""
    files: dict[str, Any] = {}
    table = []
    for what, (name, part, key), target, reached in TARGETS:
        if name not in files:
            path = RESULTS / f"{name}.json"
            files[name] = json.loads(path.read_text()) if path.exists() else {}
        sign = "<=" if reached is at_most else ">="
        measured = files[name].get(part, {}).get("ratios", {}).get(key)
        if measured is None:
            table.append((what, f"{sign} {target:.2f}", "not measured", ""))
        else:
            verdict = "reached" if reached(measured, target) else "missed"
            table.append((what, f"{sign} {target:.2f}", f"{measured:.2f}", verdict))
    return table


def main() -> None:
    """Print the table, for a terminal or as Markdown."""
    header = ("what", "target", "measured", "")
    if "--markdown" in sys.argv[1:]:
        lines = [header, ("---",) * 4, *rows()]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return
    table = [header, *rows()]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
