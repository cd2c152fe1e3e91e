"""The state of the tracker for one weight group, and its update in one step.

`quiesce.oscillation.tracker` explains F, D and the common base of their decay.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.memory_order import indices
from quiesce.errors import TrackingError
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.weight_blocks import Block, weight_blocks
from quiesce.oscillation.weight_group import LARGEST, WeightGroup

_RATE_MOMENTUM = 0.99
_SPARSE = 16
"""Blocks are updated entry by entry if fewer than 1/16 of their weights moved."""


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
        self._stretches = _stretches(self.blocks)
        self._busy = [False] * len(self._stretches)  # whether many weights moved last step

    def remember(self) -> None:
        """Initialise the records from the current codes; frozen weights stay frozen."""
        layout = self.group.layout
        self._follow(anew=True)
        for block in self.blocks:
            now = self._read(block)
            code, frozen = (
                weight_passes.emitted(now),
                weight_history.is_frozen(now.records, layout),
            )
            now.records.copy_(weight_history.pack(code, weight_history.STILL, frozen, layout))
            block.settle(now)
            block.write_back()
        self._advance_all(self.blocks, 0, 0)  # changes nothing, but compiles the pass
        self.group.write_back()

    def advance(self, event: float, entry: float, *, early: bool = False) -> None:
        """Update records, averages and counts from the last step to this one.

        Args:
            event: Increment of F for an oscillation.
            entry: Increment of D for a code change of 1.
            early: Whether the average of latents starts anew.
        """
        self._follow(anew=early)
        counts = torch.zeros_like(self.counts)
        fresh: list[Tensor] = []
        for i, blocks in enumerate(self._stretches):
            moved = None if self._busy[i] else self._settle(blocks)
            if moved is None:
                flips = self._advance_all(blocks, event, entry)
                many = sum(map(len, blocks)) / _SPARSE
                self._busy[i] = self.group.on_cpu and bool(flips[0].sum() > many)
                counts += flips
                continue
            fresh.append(moved[0])
            if len(moved[0]):
                counts += self._advance_at(*moved, event, entry)
        self.fresh = None
        if len(fresh) == len(self._stretches):
            self.fresh = fresh[0] if len(fresh) == 1 else torch.cat(fresh)
        self.group.write_back()
        self.counts += counts
        self.rate.mul_(_RATE_MOMENTUM).add_(counts[0] / self._sizes, alpha=1 - _RATE_MOMENTUM)

    def _read(self, block: Block) -> weight_passes.Operands:
        """Read a block, with the average of latents where it decides the codes."""
        now = block.read()
        return now if self.latents is None else now._replace(average=block.of(self.latents))

    def _follow(self, *, anew: bool) -> None:
        """Update the average of latents, if the estimator needs one.

        Args:
            anew: Whether the average is the latents of now.
        """
        if self.latents is None:
            return
        estimator = self.group.weights[0].estimator
        rate = 1.0 if anew else 1 - estimator.beta  # pyright: ignore[reportAttributeAccessIssue]
        of_layers = [rate * (anew or not w.locked) for w in self.group.weights]
        for block in self.blocks:
            average, rates = block.of(self.latents), block.per_row(of_layers)
            block.run(weight_passes.follow, block.read(), average, rates)

    def _settle(self, blocks: Sequence[Block]) -> tuple[Tensor, Tensor] | None:
        """Pin the frozen latents of a stretch and find the weights whose record is out of date.

        Returns:
            Their entries, ascending int64 (found,), and their `weight_history.change_of`; or None
            for "many". Always None on an accelerator, because the index would synchronise with the
            host.
        """
        if not self.group.on_cpu:
            return None
        start, end = blocks[0].start, blocks[-1].start + len(blocks[-1])
        padded = sum(map(len, blocks)) < end - start
        changes = (torch.zeros if padded else torch.empty)(end - start, dtype=torch.uint8)
        for block in blocks:
            now, first = self._read(block), block.start - start
            mine = changes[first : first + len(block)].view(now.latent.shape)
            block.run(weight_passes.settle, now, mine)
            block.write_back_pinned()
        where = indices(changes)
        if len(where) * _SPARSE > len(changes):
            return None
        return where + start, changes[where]

    def _advance_all(self, blocks: Sequence[Block], event: float, entry: float) -> Tensor:
        """Update all weights of blocks; return flips and oscillations: float64 (2, layers)."""
        counts, device = torch.zeros_like(self.counts), self.frequency.device
        scalars = [
            torch.tensor(value, dtype=torch.float32, device=device) for value in (event, entry)
        ]
        for block in blocks:
            now, frequency = self._read(block), block.of(self.frequency)
            average = None if self.average is None else block.of(self.average)
            by_row = block.run(weight_passes.track, now, frequency, average, *scalars)
            block.write_back()
            counts += block.per_layer(by_row.double())
        return counts

    def _advance_at(self, where: Tensor, changes: Tensor, event: float, entry: float) -> Tensor:
        """Update the weights that changed; return flips and oscillations: float64 (2, layers)."""
        group = self.group
        records = group.records[where]
        code = weight_history.changed_code(records, changes, group.layout)
        wide = torch.promote_types(group.dtype, torch.float32)  # of codes that a pass computes
        moves = weight_history.advance(records, code.to(wide), group.layout)
        group.records[where] = moves.record
        again = where[moves.oscillated]
        self.frequency[again] += event
        if self.average is not None:
            self.average[where] += entry * moves.jump
        return torch.stack([group.count(where[moves.flipped]), group.count(again)]).double()

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


def _stretches(blocks: Sequence[Block]) -> list[list[Block]]:
    """Divide blocks into stretches of at most `LARGEST` entries, or one block, searched at once."""
    stretches: list[list[Block]] = []
    for block in blocks:
        end = block.start + len(block)
        if stretches and end - stretches[-1][0].start <= LARGEST:
            stretches[-1].append(block)
        else:
            stretches.append([block])
    return stretches
