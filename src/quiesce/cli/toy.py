"""`quiesce toy`: compare one oscillating weight, with every method, to the theory."""

import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from quiesce.cli.arguments import Arguments, check_output
from quiesce.cli.json_output import print_json
from quiesce.cli.show import make_table
from quiesce.cures.frozen_limit import log as warnings_of_freezing
from quiesce.errors import RecipeError, did_you_mean
from quiesce.extras import require
from quiesce.toy import METHODS, SYMBOLS, Outcome, Regression, page, try_method

ENERGY = 1 / 3  # mean square of an input that is uniform in [-1, 1]


def main(argv: Sequence[str]) -> int:
    """Run the methods, print the results, and write the page with their charts."""
    known = parser().parse_args(argv)
    _check(known)
    for module in ("plotly", "jinja2"):
        require(module, "the figure of `quiesce toy`", "report")
    torch.manual_seed(0)  # for stochastic rounding
    regression = Regression(known.target, known.scale, ENERGY)
    with _all_may_freeze():
        outcomes = [
            try_method(
                METHODS[name],
                regression,
                lr=known.lr,
                steps=known.steps,
                start=known.start,
                momentum=known.momentum,
            )
            for name in known.methods
        ]
    known.output.write_text(page(outcomes, regression, _settings(known)), encoding="utf-8")
    if known.json:
        pairs = zip(known.methods, outcomes, strict=True)
        print_json({"methods": [_tree(name, outcome) for name, outcome in pairs]})
    else:
        _show(outcomes, known)
    return 0


@contextmanager
def _all_may_freeze() -> Iterator[None]:
    """Silence the warning that a whole layer is frozen, because the layer has one weight."""
    before = warnings_of_freezing.disabled
    warnings_of_freezing.disabled = True
    try:
        yield
    finally:
        warnings_of_freezing.disabled = before


def parser() -> Arguments:
    """Return the parser of `quiesce toy`."""
    made = Arguments(
        prog="quiesce toy",
        description="Train one weight whose optimum lies between two values of its grid, with "
        "every estimator and cure. Print how often it oscillates and what theory predicts, and "
        "write a page that draws it. The defaults are those of the paper's published animation.",
    )
    add = made.add_argument
    names = ", ".join(METHODS)
    add("--methods", nargs="+", metavar="NAME", default=list(METHODS), help=f"any of: {names}")
    add("--lr", type=float, default=0.5, help="learning rate, above 0 and at most 6 (default: 0.5)")
    add("--scale", type=float, default=1 / 15, help="grid step s (default: 1/15)")
    add("--target", type=float, default=0.7107, help="optimum w* (default: 0.7107)")
    add("--start", type=float, default=0.737, help="first latent weight (default: 0.737)")
    add("--steps", type=int, default=2000, help="optimizer steps, at least 20 (default: 2000)")
    add("--momentum", type=float, default=0.0, help="momentum of SGD, 0 to below 1 (default: 0)")
    made.add_output("toy.html")
    made.add_json()
    return made


def _check(known: Namespace) -> None:
    for name in known.methods:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS, 0.4) or f"methods: {', '.join(METHODS)}"
            raise RecipeError(f"unknown method {name!r}; {hint}")
    # with lr * E above 2, gradient descent diverges even for the float weight
    _must(0 < known.lr <= 2 / ENERGY, "--lr", f"above 0 and at most {2 / ENERGY:g}", known.lr)
    _must(0 < known.scale < math.inf, "--scale", "above 0", known.scale)
    low, high = -127 * known.scale, 126 * known.scale  # an 8-bit grid must have codes on both sides
    _must(low <= known.target < high, "--target", f"{low:.4g} to below {high:.4g}", known.target)
    _must(math.isfinite(known.start), "--start", "a finite number", known.start)
    _must(known.steps >= 20, "--steps", "at least 20", known.steps)
    _must(0 <= known.momentum < 1, "--momentum", "0 to below 1", known.momentum)
    output: Path = known.output
    _must(output.suffix == ".html", "-o", "the name of an .html file", output)
    check_output(output, known.force)


def _must(ok: bool, name: str, rule: str, got: object) -> None:
    if not ok:
        raise RecipeError(f"{name} must be {rule}, got {got}")


def _settings(known: Namespace) -> dict[str, str]:
    return {
        "grid step s": f"{known.scale:.4g}",
        "optimum w*": f"{known.target:g}",
        "start": f"{known.start:g}",
        "learning rate": f"{known.lr:g}",
        "momentum": f"{known.momentum:g}",
        "energy of the input E": f"{ENERGY:.4g}",
        "steps": str(known.steps),
    }


def _tree(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "method": name,
        "oscillations_per_step": outcome.frequency,
        "law": outcome.law,
        "amplitude": outcome.amplitude,
        "levels": outcome.levels,
        "frozen_at": outcome.frozen_at,
    }


def _show(outcomes: Sequence[Outcome], known: Namespace) -> None:
    console = Console()
    table = make_table("method", "osc./step", "law", "amplitude")
    table.add_column("quantized weight")
    for it in outcomes:
        numbers = (f"{it.frequency:.3f}", it.law_text, f"{it.amplitude:.3f}")
        table.add_row(it.method.title, *numbers, it.ending)
    console.print(table)
    for it in outcomes:
        console.print(f"{it.method.title}: {it.method.sentence}", highlight=False)
    console.print(
        "\nosc./step: oscillations per optimizer step, in the second half of the training; law: "
        "the value that theory predicts (docs/methods.md), ~ approximately; "
        "amplitude: range of the latent weight, in grid steps\n" + SYMBOLS,
        style="dim",
        highlight=False,
    )
    console.print(f"\nthe page is {known.output}", highlight=False, soft_wrap=True)
