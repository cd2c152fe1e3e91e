"""The state of the tracker for one weight group, and its update in one step.

`quiesce.oscillation.tracker` explains F, D and the common base of their decay.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.memory_order import indices
from quiesce.errors import TrackingError
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.weight_blocks import Block, weight_blocks
from quiesce.oscillation.weight_group import WeightGroup

_RATE_MOMENTUM = 0.99
_SPARSE = 16
"""A block is updated entry by entry if fewer than 1/16 of its weights moved."""


class GroupState:
    """A group of weights and the tracker state of each weight.

    Attributes:
        group: The group.
        frequency: F: float32 (entries,).
        average: D: float32 (entries,), or None if averages are not needed.
        latents: Average of past latents (entries,), or None if the estimator does not need it.
        counts: Flips and oscillations of each layer since the start: float64 (2, layers).
        rate: Transition rate of each layer: float64 (layers,).
        fresh: Entries whose record changed in the last step: ascending int64 (changed,), or None if
            they are not known.
        blocks: The weights in blocks, for passes over all of them.
    """

    def __init__(self, group: WeightGroup) -> None:
        layers, device = len(group.weights), group.device
        self.group = group
        self.frequency = group.zeros()
        self.average: Tensor | None = None
        self.latents: Tensor | None = None
        if group.weights[0].estimator.needs_average:
            self.latents = torch.zeros(len(group), dtype=group.dtype, device=device)
        self.counts = torch.zeros(2, layers, dtype=torch.float64, device=device)
        self.rate = torch.zeros(layers, dtype=torch.float64, device=device)
        self.fresh: Tensor | None = None
        self._sizes = torch.tensor([w.latent.numel() for w in group.weights], device=device)
        self.blocks = weight_blocks(group)
        self._busy = [False] * len(self.blocks)  # whether many weights of a block moved last step

    def remember(self) -> None:
        """Initialise the records from the current codes; frozen weights stay frozen."""
        layout = self.group.layout
        for block in self.blocks:
            now = self._with_average(block, block.read(), anew=True)
            code, frozen = (
                weight_passes.emitted(now),
                weight_history.is_frozen(now.records, layout),
            )
            now.records.copy_(weight_history.pack(code, weight_history.STILL, frozen, layout))
            block.run(weight_passes.settle, now)
            self._advance_all(block, now, 0, 0)  # changes nothing, but compiles the pass
        self.group.write_back()

    def advance(self, event: float, entry: float, *, early: bool = False) -> None:
        """Update records, averages and counts from the last step to this one.

        Args:
            event: Increment of F for an oscillation.
            entry: Increment of D for a code change of 1.
            early: Whether the average of latents starts anew.
        """
        counts = torch.zeros_like(self.counts)
        moved: list[tuple[Tensor, weight_passes.Operands]] = []
        self.fresh = None
        for i, block in enumerate(self.blocks):
            now = self._with_average(block, block.read(), anew=early)
            where = None if self._busy[i] else self._settle(block, now)
            if where is not None:
                moved.append((where + block.start, _at(now, where)))
            else:
                flips = self._advance_all(block, now, event, entry)
                self._busy[i] = self.group.on_cpu and bool(flips[0].sum() * _SPARSE > len(block))
                counts += flips
        if moved:
            entries = SelectedWeights(
                self.group, torch.cat([where for where, _ in moved]), _join(moved)
            )
            counts += self._advance_at(entries, event, entry)
            if len(moved) == len(self.blocks):
                self.fresh = entries.where
        self.group.write_back()
        self.counts += counts
        self.rate.mul_(_RATE_MOMENTUM).add_(counts[0] / self._sizes, alpha=1 - _RATE_MOMENTUM)

    def _with_average(
        self, block: Block, now: weight_passes.Operands, *, anew: bool
    ) -> weight_passes.Operands:
        """Update the average of latents, if the estimator needs one, and let it decide codes.

        Args:
            block: The block.
            now: Result of `block.read`.
            anew: Whether the average is the latents of now.
        """
        estimator = self.group.weights[0].estimator
        if self.latents is None:
            return now
        rate = 1.0 if anew else 1 - estimator.beta  # pyright: ignore[reportAttributeAccessIssue]
        rates = block.per_row([rate * (anew or not w.locked) for w in self.group.weights])
        average = block.of(self.latents)
        block.run(weight_passes.follow, now, average, rates)
        return now._replace(average=average)

    def _settle(self, block: Block, now: weight_passes.Operands) -> Tensor | None:
        """Pin the frozen latents of a block and find the weights whose record is out of date.

        Returns:
            int64 (found,), or None for "many". Always None on an accelerator, because the index
            would synchronise with the host.
        """
        if not self.group.on_cpu:
            return None
        where = indices(block.run(weight_passes.settle, now).view(-1))
        if len(where) * _SPARSE > len(block):
            return None
        block.write_back_pinned()
        return where

    def _advance_all(
        self, block: Block, now: weight_passes.Operands, event: float, entry: float
    ) -> Tensor:
        """Update every weight of a block; return flips and oscillations: float64 (2, layers)."""
        device = self.frequency.device
        average = None if self.average is None else block.of(self.average)
        scalars = [
            torch.tensor(value, dtype=torch.float32, device=device) for value in (event, entry)
        ]
        by_row = block.run(weight_passes.track, now, block.of(self.frequency), average, *scalars)
        block.write_back()
        return block.per_layer(by_row.double())

    def _advance_at(self, entries: SelectedWeights, event: float, entry: float) -> Tensor:
        """Update some weights; return flips and oscillations: float64 (2, layers)."""
        where, layout = entries.where, self.group.layout
        moves = weight_history.advance(
            entries.now.records, weight_passes.rounded(entries.now), layout
        )
        entries.write_records(moves.record)
        self.frequency[where] += event * moves.oscillated
        if self.average is not None:
            self.average[where] += entry * moves.jump
        layers = self.group.layers_of(where)
        flags = (moves.flipped, moves.oscillated)
        least = len(self.group.weights)
        return torch.stack([torch.bincount(layers[f], minlength=least) for f in flags]).double()

    def average_before(
        self, chosen: SelectedWeights | Block, records: Tensor, growth: float
    ) -> Tensor:
        """Return the averages of codes without the codes of this step.

        Args:
            growth: Growth of D since the base.

        Raises:
            TrackingError: The averages of these layers are not tracked.
        """
        if self.average is None:
            raise TrackingError(
                f"nothing follows the average of codes of {self.group.weights[0].name}"
            )
        code = weight_history.code_of(records, self.group.layout)
        return code + chosen.of(self.average) * growth

    def shares(self, cut: float) -> tuple[Tensor, Tensor]:
        """Return two fractions per layer: F above `cut`, and frozen; float64 (layers,) each."""
        counts = self.group.count_above(self.frequency, cut), self.group.count_frozen()
        return counts[0] / self._sizes, counts[1] / self._sizes

    def state(self, layer: int) -> dict[str, Tensor | None]:
        """Return contiguous copies of the state of one layer."""
        average = None if self.average is None else _copy(self.group.layer(self.average, layer))
        latents = None if self.latents is None else _copy(self.group.layer(self.latents, layer))
        return {
            "frequency": _copy(self.group.layer(self.frequency, layer)),
            "average": average,
            "latents": latents,
        }

    def load(self, layer: int, state: dict[str, Tensor | None]) -> None:
        """Load the result of `state`; raise a TrackingError if a tensor has another shape."""
        pairs = [(self.frequency, state["frequency"]), (self.average, state["average"])]
        for kept, saved in [*pairs, (self.latents, state.get("latents"))]:
            if kept is not None and saved is not None:
                mine = self.group.layer(kept, layer)
                if not isinstance(saved, Tensor) or saved.shape != mine.shape:
                    name = self.group.weights[layer].name
                    raise TrackingError(f"the saved tracker has {name} in another shape")
                mine.copy_(saved)
        self.fresh, self._busy = None, [False] * len(self._busy)


def _copy(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.contiguous_format)


def _at(now: weight_passes.Operands, where: Tensor) -> weight_passes.Operands:
    """Return some weights of a block: (selected,)."""
    rows, columns = now.latent.shape
    scale = now.scale.view(-1)
    scale = scale[where] if len(scale) == rows * columns else scale[where // columns]
    latent, records = now.latent.view(-1)[where], now.records.view(-1)[where]
    average = None if now.average is None else now.average.view(-1)[where]
    return now._replace(latent=latent, scale=scale, records=records, average=average)


def _join(parts: list[tuple[Tensor, weight_passes.Operands]]) -> weight_passes.Operands:
    found = [now for _, now in parts]
    return found[0]._replace(
        latent=torch.cat([now.latent for now in found]),
        scale=torch.cat([now.scale for now in found]),
        records=torch.cat([now.records for now in found]),
        average=None if found[0].average is None else _cat(now.average for now in found),
    )


def _cat(parts: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([part for part in parts if part is not None])
