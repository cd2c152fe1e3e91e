"""Compares the codes of training with those that a toolkit's conversion has made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quiesce.arithmetic.grid import Grid
from quiesce.errors import AttachError
from quiesce.stacks.attached import Attached, TrainedWeight
from quiesce.stacks.attached_weight import AttachedWeight
from quiesce.stacks.site import Reading
from quiesce.text_table import table

LATENT = "latent weight not at the frozen code"
SCALE = "another scale"
OTHER = "another weight"

_TIE = 1e-3
"""Distance from a tie, in codes, within which arithmetic decides to which side it goes."""


@dataclass(frozen=True, kw_only=True)
class LayerAudit:
    """What a conversion did to the codes of one layer."""

    name: str
    weights: int
    changed: int
    """Codes that differ from those of training."""
    frozen: int
    """Frozen weights."""
    frozen_lost: int
    """Frozen weights among the changed ones."""
    reasons: dict[str, int]
    """Reason to number of changed codes.

    "latent weight not at the frozen code": the conversion rounded the latent weight and knew
    nothing of the frozen code, because the hook that gives it is gone. A text of the toolkit, or
    "another scale": the same weight on another scale or zero point has the new code. "another
    weight": something else, such as a folded batch norm, changed the weight that was rounded.
    """
    scale_ratio: tuple[float, float]
    """Smallest and largest ratio of a scale to that of training."""


@dataclass(frozen=True)
class Audit:
    """What a conversion did to the codes; prints as a table of the layers that changed."""

    layers: tuple[LayerAudit, ...]

    @property
    def changed(self) -> int:
        """Codes of all layers that differ from those of training."""
        return sum(layer.changed for layer in self.layers)

    @property
    def frozen_lost(self) -> int:
        """Frozen weights of all layers that have another code."""
        return sum(layer.frozen_lost for layer in self.layers)

    def __str__(self) -> str:
        total = sum(layer.weights for layer in self.layers)
        frozen = sum(layer.frozen for layer in self.layers)
        head = (
            f"{self.changed} of {total} codes changed, "
            f"{self.frozen_lost} of {frozen} frozen codes among them"
        )
        rows: list[tuple[str, ...]] = [
            ("layer", "weights", "changed", "frozen", "frozen lost", "why")
        ]
        for layer in self.layers:
            if layer.changed:
                why = ", ".join(f"{text} ({count})" for text, count in layer.reasons.items())
                numbers = (layer.weights, layer.changed, layer.frozen, layer.frozen_lost)
                rows.append((layer.name, *(f"{number}" for number in numbers), why))
        return f"{head}\n{table(rows)}" if len(rows) > 1 else head


@torch.no_grad()
def audit(attached: Attached, converted: Any) -> Audit:
    """Compare the codes of training with those in a converted network.

    Args:
        attached: The weights. If `before_convert` was called, the codes of that moment count,
            otherwise the present ones.
        converted: What the toolkit's conversion returned, or the path of the file that it wrote.

    Raises:
        AttachError: A layer is not found in `converted`, or has another shape there.
    """
    trained = attached.trained or attached.read()
    return Audit(tuple(_audits(attached, trained, converted)))


def _audits(
    attached: Attached, trained: dict[str, TrainedWeight], converted: Any
) -> Iterator[LayerAudit]:
    for weight in attached:
        if not isinstance(weight, AttachedWeight):
            continue  # `quiesce.audit` of an export of quiesce reads these
        after = weight.site.converted(converted)
        before = trained[weight.name]
        if after is None or after.codes.shape != before.codes.shape:
            found = "is not" if after is None else f"has the shape {tuple(after.codes.shape)}"
            raise AttachError(
                f"{weight.name} {found} in the converted network; give quiesce.audit what the "
                "conversion of its toolkit returned or wrote"
            )
        yield _audit(weight, before, after)


def _audit(weight: AttachedWeight, before: TrainedWeight, after: Reading) -> LayerAudit:
    was, is_now = before.codes - before.zero_point, after.codes - after.zero_point
    changed = torch.round(was) != torch.round(is_now)
    unpinned = before.frozen & ~_is_code(before.effective, before, weight.grid)
    on_new = _is_code(before.effective, after, weight.grid)
    reasons: dict[str, int] = {}
    left = changed
    for text, where in (
        (LATENT, unpinned),
        (weight.site.why_another_scale or SCALE, on_new),
        (OTHER, torch.ones_like(changed)),
    ):
        count = int((left & where).sum())
        if count:
            reasons[text] = count
        left = left & ~where
    ratio = after.scale / before.scale
    return LayerAudit(
        name=weight.name,
        weights=changed.numel(),
        changed=int(changed.sum()),
        frozen=int(before.frozen.sum()),
        frozen_lost=int((changed & before.frozen).sum()),
        reasons=reasons,
        scale_ratio=(float(ratio.min()), float(ratio.max())),
    )


def _is_code(effective: Tensor, at: TrainedWeight | Reading, grid: Grid) -> Tensor:
    """Return where the codes of `at` are those of weights on its scale; toolkits break ties."""
    place = (effective / at.scale + at.zero_point).clamp(grid.quant_min, grid.quant_max)
    return (place - at.codes).abs() <= 0.5 + _TIE
