"""How much of a layer freezing may pin before it is stopped.

A threshold that is too low for how a network oscillates freezes it step by step, and what is frozen
learns no more. Accuracy shows that late, and frozen is final; so the share is counted as it grows,
and what would exceed the limit is refused before it is pinned.

On a CPU every newly frozen weight is counted in its step. An accelerator would be waited for, and
where weights are split over processes the others too, so there all are counted once in `EVERY`
steps: processes judge the same counts, of all parts, in the same step. The counts are a cache of
the weights' own records.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.errors import FreezingError
from quiesce.oscillation.arena import Arena
from quiesce.parallel.split_weights import Shards

EVERY = 50
"""Steps after which all frozen weights are counted anew, whoever froze them."""

_ROWS = 2**16  # rows of an arena that are looked at together

log = logging.getLogger(__name__)


class FrozenLimit:
    """Counts the frozen weights of each layer, and stops where they become too many.

    Args:
        most: Largest share of a layer's weights, above 0 and below 1, or None for no limit.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self._counts: list[Tensor] = []
        self._sizes: list[Tensor] = []
        self._told: set[str] = set()
        self._counted_at: int | None = None

    def attach(self, homes: Sequence[Arena]) -> None:
        """Begin with these arenas; nothing is counted yet."""
        self._homes = list(homes)
        self._sizes = [torch.tensor([w.latent.numel() for w in home.weights]) for home in homes]
        self._counted_at, self._told = None, set()

    def catch_up(self, step: int, threshold: float, *, anew: bool) -> None:
        """Count all frozen weights where that is due.

        Args:
            step: The optimizer step that is over.
            threshold: Of freezing in this step, for the message.
            anew: Whether something may have been frozen since the last call that was not admitted.

        Raises:
            FreezingError: A layer is above the limit; in all processes that share it.
        """
        if not anew and self._counted_at is not None and step < self._counted_at + EVERY:
            return
        self._counted_at = step
        counts = [_frozen(home) for home in self._homes]
        _add_up_parts(self._homes, counts)
        self._counts = [each.cpu() for each in counts]
        for i in range(len(self._homes)):
            self._judge(i, self._counts[i], step, threshold)

    def admit(self, home: Arena, where: Tensor, step: int, threshold: float) -> None:
        """Take account of weights that are about to be frozen, if this process holds all of them.

        Args:
            home: Of the arenas attached, on a CPU.
            where: 1-D int64 index of its entries; some may be frozen already.
            step: The optimizer step that is over.
            threshold: Of freezing in this step, for the message.

        Raises:
            FreezingError: A layer would come above the limit; nothing is counted.
        """
        if home.weights[0].shards is not None:
            return
        i = next(i for i, each in enumerate(self._homes) if each is home)
        fresh = where[~weight_history.is_frozen(home.records.view(-1)[where], home.layout)]
        counts = self._counts[i] + home.count(fresh)
        self._judge(i, counts, step, threshold)
        self._counts[i] = counts

    def _judge(self, i: int, counts: Tensor, step: int, threshold: float) -> None:
        shares = counts / self._sizes[i]
        worst = int(shares.argmax())
        if self.most is not None and shares[worst] > self.most:
            name = self._homes[i].weights[worst].name
            raise FreezingError(
                f"{int(counts[worst])} of the {int(self._sizes[i][worst])} weights of the layer "
                f"{name!r} come above the freezing threshold ({threshold:.3g}) by step {step}, "
                f"more than the {100 * self.most:.3g} % of a layer that may be frozen: raise the "
                "threshold, or where it ends, or allow more with max_frozen (None: all)"
            )
        for index in (counts == self._sizes[i]).nonzero().flatten().tolist():
            self._tell(self._homes[i].weights[index].name, step)

    def _tell(self, name: str, step: int) -> None:
        if name not in self._told:
            self._told.add(name)
            log.warning(
                "all weights of the layer %r are frozen at step %d; only its scale and bias learn "
                "from here on",
                name,
                step,
            )


def _frozen(home: Arena) -> Tensor:
    """How many weights of each layer are frozen here: int64 (layers,)."""
    parts = home.records.split(_ROWS)  # a flag takes 4 bytes on its way
    by_row = torch.cat([weight_history.is_frozen(part, home.layout).sum(1) for part in parts])
    return home.per_layer(by_row.double()).long()


def _add_up_parts(homes: Sequence[Arena], counts: Sequence[Tensor]) -> None:
    """Let the counts of split weights be those of all their parts.

    By name, since parts of other sizes may lie in other arenas: so all processes send the same.
    """
    groups: dict[object, tuple[Shards, list[Tensor]]] = {}
    pairs = [
        (weight, count)  # a view, which is written to
        for home, row in zip(homes, counts, strict=True)
        for weight, count in zip(home.weights, row, strict=True)
    ]
    for weight, count in sorted(pairs, key=lambda pair: pair[0].name):
        if weight.shards is not None:
            groups.setdefault(weight.shards.key, (weight.shards, []))[1].append(count)
    for shards, members in groups.values():
        for count, of_all in zip(members, shards.total(torch.stack(members)), strict=True):
            count.copy_(of_all)
