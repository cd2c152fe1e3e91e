"""The tables of `quiesce diagnose`; each fits 80 columns."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quiesce.diagnosis.offsets import NEAR
from quiesce.oscillation.steps_needed import steps_needed
from quiesce.oscillation.tracker import OSCILLATING
from quiesce.run_folder.contents import DiagnosedLayer, DiagnosedNorm, DiagnosisFile, OffsetCounts
from quiesce.run_folder.folder import DIAGNOSIS
from quiesce.training.recording.diagnosis_file import REESTIMATED, RUNNING

NAME_WIDTH = 20
BARS = " ▁▂▃▄▅▆▇█"
KINDS = ("depth-wise", "point-wise", "other")

OSCILLATION = f"""\
oscil.: % of weights that oscillate (frequency above {OSCILLATING}); 50 %, 99 %, max:
quantiles of the frequency, in oscillations per step; flips: codes that change
per step"""
WEIGHTS = f"""\
ratio: distance that the quantized weights move over distance that the latent
weights move; trans.: % of codes that change per step; near: % of latent weights
within {NEAR} of a threshold; clip.: % outside the grid; offsets: histogram of
the positions of the other weights between two thresholds, the grid point in
the middle"""
NORMS = """\
KL divergence of the re-estimated from the running statistics, in nats: mean and
maximum over the channels, in the column of the kind of layer before the batch
norm"""
ACCURACY = "training loss: on the batches that re-estimate the statistics"


def show_diagnosis(diagnosis: DiagnosisFile, run: Path) -> None:
    """Print all tables and the path of the file that holds the numbers."""
    console = Console()
    console.print()
    for table, legend in (
        (oscillation(diagnosis.layers), OSCILLATION),
        (weights(diagnosis.layers), WEIGHTS),
        *([(norms(diagnosis.batchnorm), NORMS)] if diagnosis.batchnorm else []),
        (accuracy(diagnosis), ACCURACY),
    ):
        console.print(table)
        console.print(legend, "", sep="\n", style="dim", highlight=False)
    for line in notes(diagnosis, run):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def notes(diagnosis: DiagnosisFile, run: Path) -> list[str]:
    """Return the lines below the tables."""
    lines = []
    if run.is_dir() and not diagnosis.finished:
        lines.append(
            f"{run} is not finished: these numbers are from its last checkpoint, after step "
            f"{diagnosis.step}"
        )
    if diagnosis.momentum is not None and diagnosis.step < steps_needed(diagnosis.momentum):
        lines.append(
            f"too few steps to tell whether weights oscillate: {diagnosis.step} of "
            f"{steps_needed(diagnosis.momentum)} (3 / momentum)"
        )
    if locked := [layer.name for layer in diagnosis.layers if layer.locked]:
        lines.append(f"locked, because requires_grad is False: {', '.join(locked)}")
    if not diagnosis.batchnorm:
        lines.append(
            "batch norm is not measured: the network has none, or batchnorm.batches is null in "
            "the recipe (add --batchnorm.batches 50)"
        )
    if run.is_dir():
        lines.append(f"all numbers are in {run / DIAGNOSIS}")
    return lines


def oscillation(layers: Sequence[DiagnosedLayer]) -> Table:
    """Return the table of oscillation in each layer."""
    table = _table("layer", "kind", "weights", "bits", "oscil.", "50 %", "99 %", "max", "flips")
    for layer in layers:
        high = layer.frequency_quantiles
        table.add_row(
            _name(layer.name),
            layer.kind,
            str(layer.weights),
            str(layer.bits),
            percent(layer.oscillating),
            *(short(high.get(each), 3) for each in ("0.5", "0.99", "1")),
            short(layer.flips_per_step),
        )
    return table


def weights(layers: Sequence[DiagnosedLayer]) -> Table:
    """Return the table of the positions of the weights of each layer."""
    table = _table(
        "layer", "ratio", "trans.", "frozen", "near", "clip.", "offsets", left=("offsets",)
    )
    for layer in layers:
        table.add_row(
            _name(layer.name),
            short(layer.distance_ratio),
            percent(layer.transition_rate),
            percent(layer.frozen),
            percent(layer.near_threshold),
            percent(layer.clipped),
            bars(layer.offsets),
        )
    return table


def norms(norms: Sequence[DiagnosedNorm]) -> Table:
    """Return the table of batch norms: two columns for each kind of preceding layer."""
    kinds = [kind for kind in KINDS if any(_group(norm) == kind for norm in norms)]
    table = _table("batch norm", *(head for kind in kinds for head in (kind, "max")))
    for norm in norms:
        cells: dict[str, tuple[str, str]] = dict.fromkeys(kinds, ("", ""))
        cells[_group(norm)] = short(norm.kl_mean, 4), short(norm.kl_max, 4)
        table.add_row(_name(norm.name), *chain.from_iterable(cells.values()))
    table.add_section()
    ends = []
    for kind in kinds:
        group = [norm for norm in norms if _group(norm) == kind]
        ends.append(short(mean(norm.kl_mean for norm in group), 4))
        ends.append(short(max(norm.kl_max for norm in group), 4))
    table.add_row("mean and maximum", *ends)
    return table


def _group(norm: DiagnosedNorm) -> str:
    return norm.kind if norm.kind in KINDS else "other"


def accuracy(diagnosis: DiagnosisFile) -> Table:
    """Return the table of accuracy and loss with both kinds of statistics."""
    table = _table("batch-norm statistics", "top-1", "training loss")
    top1, loss = diagnosis.accuracy.top1_percent, diagnosis.accuracy.train_loss
    for kind, title in ((RUNNING, "running"), (REESTIMATED, "re-estimated")):
        table.add_row(title, short(top1.get(kind)), short(loss.get(kind), 4))
    return table


def bars(histogram: OffsetCounts | None) -> str:
    """Return a histogram as a line of blocks; each shows two bins, the fullest is the tallest."""
    if histogram is None:
        return ""
    pairs = [sum(histogram.counts[i : i + 2]) for i in range(0, len(histogram.counts), 2)]
    highest = max(*pairs, 1)
    return "".join(BARS[-(-count * (len(BARS) - 1) // highest)] for count in pairs)


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """Return the name, shortened in the middle to `width` characters."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[head + 1 - width :]}"


def percent(share: float | None) -> str:
    """Return a share in percent with two digits, or nothing for None."""
    return "" if share is None else f"{100 * share:.2f}"


def short(value: float | None, digits: int = 2) -> str:
    """Return a number with `digits` decimals, none from 1000 on; an empty text for None."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.0f}"


def _name(name: str) -> Text:
    return Text(shortened(name))  # rich must not read a name in brackets as markup


def _table(first: str, *others: str, left: Sequence[str] = ("kind",)) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table
