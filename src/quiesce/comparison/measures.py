"""What is compared: numbers of a summary, and how each is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quiesce.files.untrusted.typed_values import maybe, number

LARGEST = 1e100
"""Of a measured number; its square is a float still."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of summary.json."""

    key: str
    """Its name in CSV files."""

    title: str
    """The head of its column."""

    path: Sequence[str]
    """Where it stands in summary.json."""

    unit: str
    """Of the number in the file: percent, share (0 to 1), nats, or number."""

    digits: int
    """Behind the point, where it is shown."""

    help: str
    """What it is, in a legend."""

    def of(self, summary: dict[str, Any]) -> float | None:
        """Return the number in `summary`; None where the run did not measure it.

        Raises:
            ValueError: What stands there is no number, or so large that no spread can be taken.
        """
        value: Any = summary
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        found = maybe(number, value)
        if found is not None and not abs(found) < LARGEST:
            raise ValueError(f"{'.'.join(self.path)} is {found}")
        return found

    @property
    def factor(self) -> float:
        """What the number is multiplied by where it is shown: shares are shown in percent."""
        return 100.0 if self.unit == "share" else 1.0


MEASURES = (
    Measure(
        key="pre_bn",
        title="pre-BN",
        path=("top1_percent", "trained"),
        unit="percent",
        digits=2,
        help="% of test images right, right after training",
    ),
    Measure(
        key="post_bn",
        title="post-BN",
        path=("top1_percent", "reestimated"),
        unit="percent",
        digits=2,
        help="the same, with batch-norm statistics measured again",
    ),
    Measure(
        key="metric",
        title="metric",
        path=("metric", "final"),
        unit="number",
        digits=4,
        help="score of the final network by the metric of the recipe",
    ),
    Measure(
        key="train_loss",
        title="loss",
        path=("train_loss",),
        unit="nats",
        digits=4,
        help="cross-entropy in the last epoch",
    ),
    Measure(
        key="oscillating",
        title="oscil.",
        path=("oscillation", "low_bit", "oscillating"),
        unit="share",
        digits=2,
        help="% of low-bit weights that oscillate",
    ),
    Measure(
        key="oscillating_depthwise",
        title="depth-w.",
        path=("oscillation", "low_bit_depthwise", "oscillating"),
        unit="share",
        digits=2,
        help="% in depth-wise layers alone",
    ),
    Measure(
        key="frozen",
        title="frozen",
        path=("oscillation", "low_bit", "frozen"),
        unit="share",
        digits=2,
        help="% of low-bit weights",
    ),
)
"""In the order of the columns."""
