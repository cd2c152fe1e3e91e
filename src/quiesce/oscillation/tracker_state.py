"""What the tracker keeps of the weights of one arena, and one step of it.

F, D and the common base of their decay are explained in `quiesce.oscillation.tracker`.
"""

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history, weight_passes
from quiesce.arithmetic.memory_order import indices
from quiesce.errors import TrackingError
from quiesce.oscillation.arena import Arena, Where

_RATE_MOMENTUM = 0.99
_SPARSE = 16  # an arena of which less than 1 in so many moved is updated entry by entry


class TrackedArena:
    """An arena and what is kept of its weights, in the same places.

    Args:
        home: The arena.

    Attributes:
        frequency: F, (rows, ROW) float32.
        average: D, the same, or None.
        counts: Flips and oscillations of each layer since the start: float64 (2, layers).
        rate: Transition rate of each layer: float64 (layers,).
        fresh: Where something happened in the last step, as far as known.
    """

    def __init__(self, home: Arena) -> None:
        device, layers = home.latents.device, len(home.weights)
        self.home = home
        self.frequency = torch.zeros(home.latents.shape, device=device)
        self.average: Tensor | None = None
        self.counts = torch.zeros(2, layers, dtype=torch.float64, device=device)
        self.rate = torch.zeros(layers, dtype=torch.float64, device=device)
        self.fresh: Where = slice(None)
        self._sizes = torch.tensor([w.latent.numel() for w in home.weights], device=device)
        self._busy = False  # whether much moved in the last step

    def remember(self) -> None:
        """Start the records from the codes now; what is frozen stays frozen."""
        home, now = self.home, self.home.read()
        for part in home.parts(now):  # a large network's temporaries would not fit into memory
            code, frozen = (
                weight_passes.emitted(part),
                weight_history.is_frozen(part.records, home.layout),
            )
            part.records.copy_(weight_history.pack(code, weight_history.STILL, frozen, home.layout))
        home.run(weight_passes.settle, now)
        self._advance_all(now, 0, 0)  # changes nothing; but all that will be needed is compiled

    def advance(self, event: float, entry: float) -> None:
        """Bring records, averages and counts from the last step to this one."""
        counts = self._advance(event, entry)
        self.counts += counts
        self.rate.mul_(_RATE_MOMENTUM).add_(counts[0] / self._sizes, alpha=1 - _RATE_MOMENTUM)

    def _advance(self, event: float, entry: float) -> Tensor:
        """Where something happened, or everywhere; float64 (2, layers): flips, oscillations."""
        home, now = self.home, self.home.read()
        self.fresh = slice(None)
        if home.on_cpu and not self._busy:
            where = indices(home.run(weight_passes.settle, now).view(-1))
            if len(where) * _SPARSE <= len(home):
                self.fresh = where
                return self._advance_at(now, where, event, entry)
        counts = self._advance_all(now, event, entry)
        self._busy = home.on_cpu and bool(counts[0].sum() * _SPARSE > len(home))
        return counts

    def _advance_all(self, now: weight_passes.Operands, event: float, entry: float) -> Tensor:
        home, device = self.home, self.frequency.device
        scalars = [
            torch.tensor(value, dtype=torch.float32, device=device) for value in (event, entry)
        ]
        by_row = home.run(weight_passes.track, now, self.frequency, self.average, *scalars)
        return torch.stack([home.per_layer(row) for row in by_row.double()])

    def _advance_at(
        self, now: weight_passes.Operands, where: Tensor, event: float, entry: float
    ) -> Tensor:
        home, chosen = self.home, self.home.select(now, where)
        moves = weight_history.advance(chosen.records, weight_passes.rounded(chosen), home.layout)
        home.records.view(-1)[where] = moves.record
        self.frequency.view(-1)[where] += event * moves.oscillated
        if self.average is not None:
            self.average.view(-1)[where] += entry * moves.jump
        flags = (moves.flipped, moves.oscillated)
        return torch.stack([home.count(where[flag]) for flag in flags]).double()

    def shares(self, cut: float) -> tuple[Tensor, Tensor]:
        """Of each layer, which shares have F above `cut` and are frozen: float64 (layers,)."""
        home = self.home
        frozen = weight_history.is_frozen(home.records, home.layout)
        above = (self.frequency > cut, frozen)
        counts = [home.per_layer(flags.sum(1).double()) / self._sizes for flags in above]
        return counts[0], counts[1]

    def state(self, layer: int) -> dict[str, Tensor | None]:
        """Copies of what is kept of one layer, contiguous."""
        average = None if self.average is None else _copy(self.home.layer(self.average, layer))
        return {
            "frequency": _copy(self.home.layer(self.frequency, layer)),
            "average": average,
        }

    def load(self, layer: int, state: dict[str, Tensor | None]) -> None:
        """Undo `state`.

        Raises:
            TrackingError: What was saved is not of this layer's shape.
        """
        for kept, saved in (self.frequency, state["frequency"]), (self.average, state["average"]):
            if kept is not None and saved is not None:
                mine = self.home.layer(kept, layer)
                if not isinstance(saved, Tensor) or saved.shape != mine.shape:
                    name = self.home.weights[layer].name
                    raise TrackingError(f"the saved tracker has {name} in another shape")
                mine.copy_(saved)
        self.fresh, self._busy = slice(None), False


def _copy(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.contiguous_format)
