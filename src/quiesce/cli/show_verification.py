"""Prints a verification, for `quiesce verify`, `quiesce export` and `quiesce demo`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quiesce.export import Verification

LEGEND = """\
differ: codes in {runtime} that differ from the trained network, given equal
inputs; by: largest difference, in codes; runtime, training: codes of each that
differ from exact integer arithmetic; whole: codes that differ when the whole
file runs"""


def show_verification(found: Verification) -> None:
    """Print the layers that differ, then the comparison of the whole network."""
    console = Console()
    layers = found.layers
    differing = [each for each in layers if each.differ or each.optimisations]
    if differing:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("layer", overflow="fold")
        for title in ("codes", "differ", "by", "runtime", "training", "whole"):
            table.add_column(title, justify="right", no_wrap=True)
        for layer in differing:
            numbers = (layer.codes, layer.differ, layer.largest)
            numbers += (layer.runtime, layer.simulation, layer.whole)
            table.add_row(Text(layer.made_by), *map(str, numbers))
        console.print(table)
        console.print(
            LEGEND.format(runtime=found.runtime), "", sep="\n", style="dim", highlight=False
        )
    same = len(layers) - len(differing)
    print(f"{same} of {len(layers)} layers: all codes are equal, given equal inputs")
    print(f"whole network: outputs differ by at most {found.logits_differ:.3g} accumulator units")
    if found.labelled:
        ours, theirs = (
            100 * n / found.labelled for n in (found.right_trained, found.right_runtime)
        )
        print(f"top-1: trained {ours:.2f} %, {found.runtime} {theirs:.2f} %")
    print(f"{'verified' if found.passed else 'DIFFERS'}: {found.verdict}")


def tree(found: Verification) -> dict[str, Any]:
    """Return the verification for `quiesce verify --json`."""
    fields = asdict(found)
    return {"passed": found.passed, "verdict": found.verdict, **fields}


def show_shipped(path: Path, found: dict[str, Any]) -> None:
    """Print the demo's last line, from the content of shipped.json."""
    top1 = 100 * found["right"] / found["images"]
    print(
        f"{path}, verified: {found['right']} of {found['images']} ({top1:.1f} %) right in ONNX "
        f"Runtime, {found['bytes'] / 1000:.0f} kB (float {found['float_bytes'] / 1000:.0f} kB), "
        f"{found['milliseconds']:.2f} ms an image (float {found['float_milliseconds']:.2f} ms)"
    )
