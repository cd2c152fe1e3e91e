"""A limit on the fraction of frozen weights in a layer.

If the threshold is too low, freezing gradually freezes the whole network, and frozen weights no
longer learn. The accuracy shows this late, and freezing cannot be undone. This class therefore
counts the frozen weights and raises an error before their fraction exceeds the limit.

On a CPU it counts newly frozen weights in every step. On an accelerator the count would synchronise
with the host, and with split weights each process would wait for the others. There it counts once
every `EVERY` steps: all processes compare the same counts, over all parts, in the same step. The
counts can be derived from the records of the weights, so they are not in the state_dict.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.errors import FreezingError
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.weight_group import WeightGroup
from quiesce.parallel.split_weights import Shards

EVERY = 50
"""Steps between two complete counts, which include weights frozen by other code."""

log = logging.getLogger("quiesce.freezing")


class FrozenLimit:
    """Counts the frozen weights of each layer and raises an error above the limit.

    Args:
        most: Largest frozen fraction of a layer, above 0 and below 1, or None for no limit.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self._counts: list[Tensor] = []
        self._sizes: list[Tensor] = []
        self._warned: set[str] = set()
        self._counted_at: int | None = None

    def attach(self, groups: Sequence[WeightGroup]) -> None:
        """Set the groups and reset all counts."""
        self._groups = list(groups)
        self._sizes = [torch.tensor([w.latent.numel() for w in group.weights]) for group in groups]
        self._counted_at, self._warned = None, set()

    def catch_up(self, step: int, threshold: float, *, recount: bool) -> None:
        """Count all frozen weights if a count is due.

        Args:
            threshold: The freezing threshold of this step, for the message.
            recount: Whether weights may have been frozen without `admit` since the last call.

        Raises:
            FreezingError: A layer is above the limit. Raised in all processes that share it.
        """
        if not recount and self._counted_at is not None and step < self._counted_at + EVERY:
            return
        self._counted_at = step
        counts = [group.count_frozen() for group in self._groups]
        _add_up_parts(self._groups, counts)
        self._counts = [each.cpu() for each in counts]
        for i in range(len(self._groups)):
            self._judge(i, self._counts[i], step, threshold)

    def admit(self, chosen: SelectedWeights, step: int, threshold: float) -> None:
        """Count weights that are about to be frozen, if their layers are not split over processes.

        Args:
            chosen: Weights on a CPU. Some may already be frozen.

        Raises:
            FreezingError: A layer would exceed the limit. Nothing is counted.
        """
        group = chosen.group
        if group.weights[0].shards is not None:
            return
        i = next(i for i, each in enumerate(self._groups) if each is group)
        fresh = chosen.where[~weight_history.is_frozen(chosen.records, group.layout)]
        counts = self._counts[i] + group.count(fresh)
        self._judge(i, counts, step, threshold)
        self._counts[i] = counts

    def _judge(self, i: int, counts: Tensor, step: int, threshold: float) -> None:
        shares = counts / self._sizes[i]
        worst = int(shares.argmax())
        if self.most is not None and shares[worst] > self.most:
            name = self._groups[i].weights[worst].name
            raise FreezingError(
                f"{int(counts[worst])} of the {int(self._sizes[i][worst])} weights of the layer "
                f"{name!r} come above the freezing threshold ({threshold:.3g}) by step {step}, "
                f"more than the {100 * self.most:.3g} % of a layer that may be frozen: raise the "
                "threshold, or where it ends, or allow more with max_frozen (None: all)"
            )
        for index in (counts == self._sizes[i]).nonzero().flatten().tolist():
            self._warn(self._groups[i].weights[index].name, step)

    def _warn(self, name: str, step: int) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning(
                "all weights of the layer %r are frozen at step %d; only its scale and bias learn "
                "from here on",
                name,
                step,
            )


def _add_up_parts(groups: Sequence[WeightGroup], counts: Sequence[Tensor]) -> None:
    """Replace the counts of split weights, in place, by sums over all parts.

    Layers are sorted by name, because every process must send the same layers in the same order,
    while groups can differ between processes.
    """
    split: dict[object, tuple[Shards, list[Tensor]]] = {}
    pairs = [
        (weight, count)  # a view that is written to
        for group, row in zip(groups, counts, strict=True)
        for weight, count in zip(group.weights, row, strict=True)
    ]
    for weight, count in sorted(pairs, key=lambda pair: pair[0].name):
        if weight.shards is not None:
            split.setdefault(weight.shards.key, (weight.shards, []))[1].append(count)
    for shards, members in split.values():
        for count, of_all in zip(members, shards.total(torch.stack(members)), strict=True):
            count.copy_(of_all)
