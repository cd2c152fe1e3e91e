"""The numbers of summary.json that are compared, and their format."""

from collections.abc import Callable
from dataclasses import dataclass

from quiesce.run_folder.contents import Summary
from quiesce.run_folder.reading import RunFiles

LARGEST = 1e100
"""Upper limit of a number, so that its square is finite."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of summary.json."""

    key: str
    """Name in CSV files."""
    title: str
    """Header of the column."""
    read: Callable[[Summary], float | None]
    """Function that returns the number; None if the run did not measure it."""
    unit: str
    """Unit of the number in the file: percent, share (0 to 1), nats or number."""
    digits: int
    """Number of decimals shown."""
    help: str
    """Description in the legend."""

    def of(self, run: RunFiles) -> float | None:
        """Return the number of a run, or None; a number that is not finite raises a ValueError."""
        found = self.read(run.summary) if run.summary else None
        if found is not None and not abs(found) < LARGEST:
            raise ValueError(f"{self.key} is {found}")
        return found

    @property
    def factor(self) -> float:
        """Factor for display: shares are shown in percent."""
        return 100.0 if self.unit == "share" else 1.0


MEASURES = (
    Measure(
        key="pre_bn",
        title="pre-BN",
        read=lambda summary: summary.top1_percent.get("trained"),
        unit="percent",
        digits=2,
        help="% of test images right, right after training",
    ),
    Measure(
        key="post_bn",
        title="post-BN",
        read=lambda summary: summary.top1_percent.get("reestimated"),
        unit="percent",
        digits=2,
        help="the same, with batch-norm statistics measured again",
    ),
    Measure(
        key="corrected",
        title="corrected",
        read=lambda summary: summary.top1_percent.get("corrected"),
        unit="percent",
        digits=2,
        help="the same, after quantization correction",
    ),
    Measure(
        key="metric",
        title="metric",
        read=lambda summary: summary.metric.final if summary.metric else None,
        unit="number",
        digits=4,
        help="score of the final network by the metric of the recipe",
    ),
    Measure(
        key="train_loss",
        title="loss",
        read=lambda summary: summary.train_loss,
        unit="nats",
        digits=4,
        help="cross-entropy in the last epoch",
    ),
    Measure(
        key="oscillating",
        title="oscil.",
        read=lambda summary: summary.oscillation.low_bit.oscillating,
        unit="share",
        digits=2,
        help="% of low-bit weights that oscillate",
    ),
    Measure(
        key="oscillating_depthwise",
        title="depth-w.",
        read=lambda summary: summary.oscillation.low_bit_depthwise.oscillating,
        unit="share",
        digits=2,
        help="% in depth-wise layers alone",
    ),
    Measure(
        key="frozen",
        title="frozen",
        read=lambda summary: summary.oscillation.low_bit.frozen,
        unit="share",
        digits=2,
        help="% of low-bit weights",
    ),
)
"""All measures, in the order of the columns."""
