"""One of every cure, with numbers at which each acts within a few steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import quiesce as qs

MAKE: dict[type[qs.Cure], Callable[[Any], qs.Cure]] = {
    qs.Dampening: qs.Dampening,
    qs.BinRegularization: qs.BinRegularization,
    qs.OBR: qs.OBR,
    qs.Freezing: partial(qs.Freezing, max_frozen=None),
    qs.TRS: qs.TRS,
    qs.OsciReset: partial(qs.OsciReset, period=4, window=3),
    qs.QRamping: partial(qs.QRamping, period=4, window=2),
    qs.CGA: qs.CGA,
    qs.Snap: qs.Snap,
}
"""Each takes a number at which it acts, 0.15, or a schedule, except where a test says otherwise."""


TOGETHER = {qs.Freezing: 0.25, qs.QRamping: 3.0, qs.CGA: 0.5}
"""Numbers of cures that would leave nothing to do for the others."""


def one_of_each() -> list[qs.Cure]:
    """All of them; freezing leaves some oscillating weights to the last step."""
    return [make(TOGETHER.get(kind, 0.15)) for kind, make in MAKE.items()]
