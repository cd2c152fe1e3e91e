"""The oscillation tracker, which measures oscillation frequencies after each optimizer step.

A weight oscillates in a step if its code changes in the direction opposite to its last change. Its
frequency f is the exponential average f <- m*o + (1-m)*f, with o = 1 for an oscillation, else 0.

Between two oscillations f only decays. The tracker therefore stores F = f / (1-m)^n, with n the
steps since a common base, which is constant in between. The same holds for D = (average of codes -
code) / (1-m)^n, which changes only if the code changes. A step reads every latent once and writes
only changed entries, and the decay is applied when F and D are read. Every few thousand steps the
base is reset and all values are rescaled. Weights that share a grid are read in blocks
(`quiesce.oscillation.weight_blocks`), so a step takes a few passes for any number of layers.

State in bytes per weight, for grids of up to 4 bits: history record 1 (code, direction, frozen
flag; saved with the model), F 4, D 4 if freezing uses the average of codes: 9 in total. For wider
grids: record 4, F 4, and D 4 if they may be frozen. Q-EMA needs 4 more, for its average of latents.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086. The transition
rate is that of Lee et al., arXiv:2404.19248, the distance ratio that of TetraJet, arXiv:2502.20853.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from quiesce.arithmetic import weight_history
from quiesce.errors import TrackingError
from quiesce.oscillation.distance_ratio import DistanceMeter, DistanceSampling, distance_ratio
from quiesce.oscillation.group_state import GroupState
from quiesce.oscillation.layer_report import LayerReport, Summary, overall
from quiesce.oscillation.momentum import decay_of
from quiesce.oscillation.saved_state import check_state
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.unseen_steps import UnseenSteps
from quiesce.oscillation.weight_blocks import Block
from quiesce.oscillation.weight_group import WeightGroup, weight_groups
from quiesce.oscillation.weight_parts import over_parts, part_of
from quiesce.quantization.quantized_weight import QuantizedWeight

OSCILLATING = 0.005  # frequency above which the paper counts a weight as oscillating
EARLY = 10  # steps in which Q-EMA rounds to nearest
_MOMENTUM = 0.01
_REBASE_AT = 2.0**64  # growth of the stored averages after which the base is reset


class OscillationTracker:
    """Tracks the codes of `weights` over optimizer steps.

    A weight has one tracker at a time, which updates its history records. A later tracker takes
    the records over.

    Args:
        weights: The weights, as returned by `quantized_weights`. They are read in place.
        momentum: The momentum m in (0, 1), the weight of the newest step. The average covers about
            1/m steps. The recipes of the paper use 0.001 to 0.01. None: 0.01, or what a cure with
            a target derives from the length of the training.
        distance: Sampling of the distance ratio, or None to disable it.

    Raises:
        ValueError: `momentum` is outside (0, 1), or there is no weight.

    Examples:
        >>> tracker = qs.OscillationTracker(weights, momentum=0.01)
        >>> tracker.steps, tracker.summary().oscillating
        (0, 0.0)
    """

    def __init__(
        self,
        weights: Sequence[QuantizedWeight],
        momentum: float | None = None,
        *,
        distance: DistanceSampling | None = DistanceSampling(),  # noqa: B008 (immutable)
    ) -> None:
        if not weights:
            raise ValueError("weights is empty: there is nothing to track")
        self.weights = list(weights)
        self._names = [weight.name for weight in weights]
        self._momentum_given = momentum is not None
        self.momentum = _MOMENTUM if momentum is None else momentum
        self.decay = decay_of(self.momentum)
        self.steps = 0
        self._token = object()
        for weight in self.weights:
            weight.tracked_by = self._token
        self._base = 0
        self._states = [GroupState(group) for group in weight_groups(self.weights)]
        self._places = {
            weight.name: (state, i)
            for state in self._states
            for i, weight in enumerate(state.group.weights)
        }
        self._distance = None if distance is None else DistanceMeter(self.groups, distance)
        self._known_from = 0  # since this step count, every change was observed
        self._unseen = UnseenSteps(self.weights)

    @property
    def groups(self) -> list[WeightGroup]:
        """The weight groups, for cures, which act on a whole group at once."""
        return [state.group for state in self._states]

    def blocks(self, group: WeightGroup) -> list[Block]:
        """Return the weights of a group in blocks, for passes over all of them."""
        return self._of(group).blocks

    def suggest_momentum(self, momentum: float) -> None:
        """Use this momentum if none was given; for cures with a target, before the first step."""
        if not self._momentum_given:
            self.momentum, self.decay = momentum, decay_of(momentum)

    def follow_average(self, weights: Iterable[QuantizedWeight]) -> None:
        """Also track the average of codes of these weights and of others in the same groups.

        Raises:
            TrackingError: The tracker has already stepped.
        """
        if self.steps:
            raise TrackingError(
                "the average of codes runs from the first step; attach cures before"
            )
        for weight in weights:
            state, _ = self._place(weight.name)
            if state.average is None:
                state.average = torch.zeros_like(state.frequency)

    @torch.no_grad()
    def step(self) -> None:
        """Read the codes after an optimizer step. The first call only records them.

        Raises:
            TrackingError: Another tracker has taken over the weights, their memory format has
                changed, or they have since been split over processes.
        """
        if any(weight.tracked_by is not self._token for weight in self.weights):
            raise TrackingError("another tracker follows these weights; keep and step only one")
        for weight in self.weights:
            weight.begin_step()
        self._check_groups()
        self._rebase()
        for state in self._states:
            if self.steps == 0:
                state.remember()
            else:
                age = self._age()
                event, entry = self.momentum * self.decay**-age, self.decay ** -(age - 1)
                state.advance(event, entry, early=self.steps < EARLY)
        if self._distance is not None:
            self._distance.step(self.steps)
        self.steps += 1

    def frequency(self, name: str) -> Tensor:
        """Return the oscillation frequencies of a layer: 0 to 1 per step, shape of the latent.

        For a latent split over processes, this and the methods below return the local part.
        """
        state, i = self._place(name)
        self._check_groups()
        return state.group.layer(state.frequency, i) * self.decay ** (self._age() - 1)

    def follows_average(self, name: str) -> bool:
        """Return whether the average of codes of this layer is tracked."""
        return self._place(name)[0].average is not None

    def average(self, name: str) -> Tensor:
        """Return the exponential average of the codes of a layer: shape of the latent.

        Raises:
            TrackingError: The average of this layer is not tracked.
        """
        state, i = self._place(name)
        self._check_groups()
        if state.average is None:
            raise TrackingError(f"nothing follows the average of codes of {name}")
        code = weight_history.code_of(state.group.weights[i].history, state.group.layout)
        return code + state.group.layer(state.average, i) * self.decay ** (self._age() - 1)

    def oscillating(self, cut: float = OSCILLATING) -> dict[str, Tensor]:
        """Return the mask of weights whose frequency is above `cut`, by layer name."""
        return {weight.name: self.frequency(weight.name) > cut for weight in self.weights}

    def entries_above(
        self, group: WeightGroup, threshold: float, *, fresh_only: bool = False
    ) -> Tensor:
        """Return the weights of a group on a CPU, frozen or not, with frequency above `threshold`.

        Args:
            group: One of `groups`.
            threshold: A frequency.
            fresh_only: Check only weights whose record changed in the last step, if these are
                known. This suffices if the caller checked after the previous step and the threshold
                has not fallen by more than a factor `decay` since: no other weight is new.

        Returns:
            Ascending int64 index of entries: (found,).
        """
        state, cut = self._of(group), self._stored(threshold)
        if fresh_only and self.steps - 1 > self._known_from and state.fresh is not None:
            return state.fresh[state.frequency[state.fresh] > cut]
        return (state.frequency > cut).nonzero().squeeze(1)

    def frequencies_at(self, group: WeightGroup, where: Tensor) -> Tensor:
        """Return the frequencies of the entries of an index: float32 (selected,)."""
        return self._of(group).frequency[where] * self.decay ** (self._age() - 1)

    def above(self, block: Block, threshold: float | Tensor) -> Tensor:
        """Return the mask of weights above `threshold` in a block: bool (rows, columns).

        Args:
            block: One of `blocks`.
            threshold: A frequency, or one for each row: (rows, 1).
        """
        return block.of(self._of(block.group).frequency) > self._stored(threshold)

    def average_before(self, chosen: SelectedWeights | Block, records: Tensor) -> Tensor:
        """Return the averages of codes without the codes of this step.

        Raises:
            TrackingError: The averages of these layers are not tracked.
        """
        growth = self.decay ** (self._age() - 2)
        return self._of(chosen.group).average_before(chosen, records, growth)

    def transition_rate(self, names: Container[str]) -> float:
        """Return the transition rate of some layers together, 0 to 1 per step.

        This is the share of their codes that change per step, as a running average from 0 with
        momentum 0.99. If weights are split, all processes must call this.

        Args:
            names: Names of the layers, at least one.
        """
        mine, changes = [weight for weight in self.weights if weight.name in names], []
        for weight in mine:
            state, i = self._places[weight.name]
            changes.append(state.rate[i : i + 1] * weight.latent.numel())
        total = over_parts(mine, changes).sum().item()
        return total / sum(weight.latent.numel() for weight in mine)

    def report(self, cut: float = OSCILLATING) -> list[LayerReport]:
        """Return one report per layer, in the order of the weights.

        If weights are split, the report covers all parts, and all processes must call this.

        Args:
            cut: The frequency above which a weight counts as oscillating, 0 to 1.

        Raises:
            ValueError: `cut` is outside [0, 1].
        """
        return self._reports(cut)[0]

    def summary(self, cut: float = OSCILLATING) -> Summary:
        """Return a report over all layers, with equal weighting of weights; prints as a table."""
        return overall(*self._reports(cut), self.steps)

    def _reports(self, cut: float) -> tuple[list[LayerReport], float | None]:
        """Return the report of each layer, and the distance ratio over all layers."""
        if not 0 <= cut <= 1:
            raise ValueError(f"cut must be a frequency, 0 to 1, got {cut}")
        self._check_groups()
        self._unseen.check(self.steps)
        shares = {}
        for state in self._states:
            columns = torch.stack(state.shares(self._stored(cut)), 1)
            shares |= {w.name: row for w, row in zip(state.group.weights, columns, strict=True)}
        sums = self._sums()
        rows = [torch.cat([shares[name], sums[name]]) for name in self._names]
        table = over_parts(self.weights, rows).tolist()
        reports, ways = [], [0.0, 0.0]
        for weight, row in zip(self.weights, table, strict=True):
            oscillating, frozen, flips, oscillations, rate, *way = row
            ways = [ways[0] + way[0], ways[1] + way[1]] if way else ways
            report = LayerReport(
                name=weight.name,
                weights=weight.latent.numel(),
                bits=weight.grid.bits,
                oscillating=oscillating,
                frozen=frozen,
                locked=float(weight.locked),
                flips_per_step=flips / max(1, self.steps - 1),
                total_oscillations=round(oscillations),
                total_grid_changes=weight.grid_changes,
                distance_ratio=distance_ratio(*way) if way else None,
                transition_rate=rate,
            )
            reports.append(report)
        return reports, None if self._distance is None else distance_ratio(*ways)

    def state_bytes(self) -> int:
        """Return the size in bytes of history records, frequencies and averages of codes."""
        kept = [weight.history for weight in self.weights]
        for state in self._states:
            kept += [x for x in (state.frequency, state.average, state.latents) if x is not None]
        return sum(values.nbytes for values in kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the tracker, without the history records, which the model saves.

        Frequencies and averages are stored by layer, in the shape of the latent and independent of
        the memory format. If weights are split over processes, they are split in the same way, as
        torch.distributed.checkpoint requires, and all processes must call this.
        """
        self._check_groups()
        sums_of = self._sums()
        table = over_parts(self.weights, [sums_of[name] for name in self._names])
        layers = {}
        for weight, sums in zip(self.weights, table, strict=True):
            kept, i = self._places[weight.name]
            entries = kept.state(i)
            if weight.shards is not None:
                entries = {k: v if v is None else weight.shards.join(v) for k, v in entries.items()}
            layers[weight.name] = {**entries, "sums": sums.clone()}
        return {
            "version": 1,
            "names": self._names,
            "momentum": self.momentum,
            "steps": self.steps,
            "base": self._base,
            "followed": self._followed(),
            "layers": layers,
            "distance": None if self._distance is None else self._distance.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`. Load the model state too, which contains the history.

        The saved weights may have been split over a different number of processes, or not split.

        Raises:
            TrackingError: The state has different layers, a different momentum, or averages of
                different layers.
        """
        check_state(state, self._names, self.momentum, self._followed())
        steps, base = state["steps"], state["base"]
        if not 0 <= steps - base <= 1 - math.log(_REBASE_AT) / math.log(self.decay):
            raise TrackingError(f"the saved tracker has done {steps} steps, and its base is {base}")
        self.steps, self._base = steps, base
        self._known_from = self.steps
        for weight in self.weights:
            (kept, i), entries = self._places[weight.name], state["layers"][weight.name]
            kept.load(i, {k: part_of(v, weight.shards) for k, v in entries.items() if k != "sums"})
            self._load_sums(weight, entries["sums"])
        if self._distance is not None and state["distance"] is not None:
            self._distance.load_state_dict(state["distance"])

    def _sums(self) -> dict[str, Tensor]:
        """Return the additive statistics of each layer: float64 (3,), or (5,) with distances.

        Flips and oscillations since the start, transition rate, distances of latents and codes.
        """
        ways = {} if self._distance is None else self._distance.traveled()
        sums = {}
        for name in self._names:
            state, i = self._places[name]
            parts = [state.counts[:, i], state.rate[i : i + 1]]
            sums[name] = torch.cat([*parts, *([ways[name]] if ways else [])])
        return sums

    def _load_sums(self, weight: QuantizedWeight, sums: Tensor) -> None:
        state, i = self._places[weight.name]
        # the sums are over all parts, so only one process continues them
        mine = sums if weight.shards is None or weight.shards.first else torch.zeros_like(sums)
        state.counts[:, i], state.rate[i] = mine[:2], mine[2]
        if self._distance is not None and len(mine) > 3:
            self._distance.traveled()[weight.name].copy_(mine[3:])

    def _place(self, name: str) -> tuple[GroupState, int]:
        if name not in self._places:
            raise KeyError(f"no tracked layer is called {name!r}; there are {self._names}")
        return self._places[name]

    def _of(self, group: WeightGroup) -> GroupState:
        return next(state for state in self._states if state.group is group)

    def _stored(self, frequency: Any) -> Any:
        """Return the F that currently represents a frequency."""
        return frequency / self.decay ** (self._age() - 1)

    def _check_groups(self) -> None:
        for state in self._states:
            state.group.refresh()

    def _followed(self) -> list[str]:
        return [w.name for w in self.weights if self.follows_average(w.name)]

    def _age(self) -> int:
        return self.steps - self._base

    def _rebase(self) -> None:
        if self.decay ** -self._age() > _REBASE_AT:
            shrink = self.decay ** (self._age() - 1)
            for state in self._states:
                for stored in (state.frequency, state.average):
                    if stored is not None:
                        stored.mul_(shrink)
            self._base = self.steps - 1
