"""Which weights oscillate, and how often: read once per optimizer step, after it.

A weight oscillates in a step if its code changed, and against the direction of its last change.
Its frequency f is the exponential average of that: f <- m*o + (1-m)*f, with o 1 or 0.

Between two oscillations f only decays, so it need not be touched: what is stored is
F = f / (1-m)^n, n the steps since a common base, which stays constant meanwhile. The same holds for
D = (average of codes - code) / (1-m)^n, which changes only where the code does. So a step reads
every latent once and writes only where something happened, and both averages are decayed when
they are read. Every few thousand steps the base moves on and all are rescaled.

State, in bytes per weight, for grids of up to 4 bits: history record 1 (code, direction, frozen
flag; it is a buffer of the model), F 4, D 4 where freezing follows the average of codes: 9 in all.
Wider grids: record 4, F 4, and D 4 where they may be frozen.

Source: Nagel et al., Overcoming Oscillations in QAT, ICML 2022, arXiv:2203.11086. The transition
rate is that of Lee et al., arXiv:2404.19248, the distance ratio that of TetraJet, arXiv:2502.20853.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from quiesce import history
from quiesce.distance import DistanceMeter, DistanceSampling
from quiesce.errors import TrackingError
from quiesce.flat import indices
from quiesce.reports import LayerReport, overall
from quiesce.weights import QuantizedWeight, Where

OSCILLATING = 0.005  # frequency above which the paper's tables call a weight oscillating
_RATE_MOMENTUM = 0.99
_SPARSE = 16  # a layer of which less than 1 in so many moved is updated entry by entry
_REBASE_AT = 2.0**64  # growth of the stored averages after which the base moves on


class OscillationTracker:
    """Follows the codes of `weights` from optimizer step to optimizer step.

    There is one tracker per weight at a time: it keeps the weight's history records up to date, and
    a later tracker takes them over.

    Args:
        weights: As `quantized_weights` gives them.
        momentum: m above, in (0, 1): the weight of the newest step. The paper's recipes use 0.001
            to 0.01; an average over about 1/m steps.
        distance: How the distance ratio is sampled, or None not to measure it.

    Raises:
        ValueError: `momentum` is outside (0, 1), or there is no weight.
    """

    def __init__(
        self,
        weights: Sequence[QuantizedWeight],
        momentum: float = 0.01,
        *,
        distance: DistanceSampling | None = DistanceSampling(),  # noqa: B008 (immutable)
    ) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must be above 0 and below 1, got {momentum}")
        if not weights:
            raise ValueError("weights is empty: there is nothing to track")
        self.weights = list(weights)
        self.momentum = momentum
        self.steps = 0
        self._token = object()
        self._strides = [weight.latent.stride() for weight in self.weights]
        for weight in self.weights:
            weight.tracked_by = self._token
        self._index = {weight.name: i for i, weight in enumerate(self.weights)}
        device = self.weights[0].latent.device
        self._dense = device.type != "cpu"  # an accelerator would wait for every count it is asked
        # 1 - m as a float32 pass over all weights would apply it, so that both agree.
        self.decay = torch.tensor(1 - momentum, dtype=torch.float32).item()
        self._base = 0
        self._frequency = _Flat(self.weights, device)
        self._average: _Flat | None = None
        count = len(self.weights)
        self._flips = torch.zeros(count, dtype=torch.int64, device=device)
        self._oscillations = torch.zeros(count, dtype=torch.int64, device=device)
        self._rate = torch.zeros(count, dtype=torch.float64, device=device)
        self._sizes = torch.tensor([w.latent.numel() for w in self.weights], device=device)
        self._distance = None if distance is None else DistanceMeter(self.weights, distance)
        self._fresh: dict[int, Where] = {}
        self._busy: set[int] = set()  # layers of which much moved in the last step
        self._known_from = 0  # the step count from which on nothing happened unseen

    def follow_average(self, weights: Iterable[QuantizedWeight]) -> None:
        """Keep the average of codes of these weights too; before the first step.

        Raises:
            TrackingError: The tracker has stepped already.
        """
        if self.steps:
            raise TrackingError(
                "the average of codes runs from the first step; attach cures before"
            )
        chosen = {weight.name for weight in weights}
        followed = [w for w in self.weights if w.name in chosen or w.name in self._followed()]
        if followed:
            self._average = _Flat(followed, followed[0].latent.device)

    @torch.no_grad()
    def step(self) -> None:
        """Read the codes as the optimizer left them. The first call only remembers them.

        Raises:
            TrackingError: Another tracker has taken over the weights, or their memory format has
                changed.
        """
        self._check_memory_formats()
        if any(weight.tracked_by is not self._token for weight in self.weights):
            raise TrackingError(
                "another tracker follows these weights now; keep one, and step only that"
            )
        if self.steps == 0:
            for weight in self.weights:
                weight.settle(pin=True)
                _remember(weight)
                self._advance_all(weight, 0, 0)  # changes nothing; what is compiled is now ready
        else:
            self._rebase()
            self._advance()
        if self._distance is not None:
            self._distance.step(self.steps)
        self.steps += 1

    def frequency(self, name: str) -> Tensor:
        """Oscillation frequency of the layer's weights: its latent's shape, 0 to 1 per step."""
        self._check_memory_formats()
        layer = self._layer(name)
        stored = self._frequency[layer.name]
        return layer.shaped(stored * self.decay ** (self._age() - 1))

    def average(self, name: str) -> Tensor:
        """Exponential average of the layer's codes up to now: its latent's shape.

        Raises:
            TrackingError: Nothing follows this layer's average.
        """
        self._check_memory_formats()
        layer = self._layer(name)
        return layer.shaped(self._averaged(layer, slice(None), self._age() - 1))

    def oscillating(self, cut: float = OSCILLATING) -> dict[str, Tensor]:
        """Layer name to the mask of weights whose frequency is above `cut`."""
        return {weight.name: self.frequency(weight.name) > cut for weight in self.weights}

    def above(
        self,
        weights: Iterable[QuantizedWeight],
        threshold: float,
        *,
        fresh_only: bool = False,
    ) -> Iterator[tuple[QuantizedWeight, Where, Tensor]]:
        """Weights whose frequency is above `threshold`, frozen ones perhaps among them.

        Args:
            weights: Of those that are tracked.
            threshold: A frequency.
            fresh_only: Look only where something happened in the last step, as far as that is
                known: enough for who asked after the step before with a threshold that has not
                fallen by more than a factor `decay` since, for then no other weight can be new.

        Yields:
            A weight, the selection, and bool flags of the shape of the selection.
        """
        shrink = self.decay ** (self._age() - 1)
        only_fresh = fresh_only and self.steps - 1 > self._known_from
        for weight in weights:
            where = self._fresh.get(self._index[weight.name]) if only_fresh else slice(None)
            if where is not None:
                yield weight, where, self._frequency[weight.name][where] * shrink > threshold

    def average_before(self, weight: QuantizedWeight, where: Where) -> Tensor:
        """Average of codes before this step's code entered it, for the selection."""
        return self._averaged(weight, where, self._age() - 2)

    def report(self, cut: float = OSCILLATING) -> list[LayerReport]:
        """One report per layer, in the order of the weights; `cut` is a frequency."""
        ratios = None if self._distance is None else self._distance.ratios().tolist()
        return [
            LayerReport(
                name=weight.name,
                weights=weight.latent.numel(),
                bits=weight.grid.bits,
                oscillating=(self.frequency(weight.name) > cut).double().mean().item(),
                frozen=weight.frozen.double().mean().item(),
                flips_per_step=self._flips[i].item() / max(1, self.steps - 1),
                total_oscillations=int(self._oscillations[i]),
                distance_ratio=None if ratios is None else ratios[i],
                transition_rate=self._rate[i].item(),
            )
            for i, weight in enumerate(self.weights)
        ]

    def summary(self, cut: float = OSCILLATING) -> LayerReport:
        """The same over all layers, each weight counting once."""
        distance = None if self._distance is None else self._distance.overall()
        return overall(self.report(cut), distance)

    def state_bytes(self) -> int:
        """Bytes held for the weights: history records, frequencies, averages of codes."""
        records = sum(w.history.numel() * w.history.element_size() for w in self.weights)
        flats = [flat.values for flat in (self._frequency, self._average) if flat is not None]
        return records + sum(values.numel() * values.element_size() for values in flats)

    def state_dict(self) -> dict[str, Any]:
        """All that tracking needs to go on, but for the history records, which the model saves."""
        self._check_memory_formats()
        return {
            "version": 1,
            "names": [weight.name for weight in self.weights],
            "momentum": self.momentum,
            "steps": self.steps,
            "base": self._base,
            "frequency": self._frequency.in_order(),
            "followed": self._followed(),
            "average": None if self._average is None else self._average.in_order(),
            "flips": self._flips.clone(),
            "oscillations": self._oscillations.clone(),
            "rate": self._rate.clone(),
            "distance": None if self._distance is None else self._distance.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; load the model's own state too, it holds the history.

        Raises:
            TrackingError: The state is of other layers, of another momentum, or of cures that
                need other averages.
        """
        names = [weight.name for weight in self.weights]
        if state["names"] != names:
            odd = sorted(set(state["names"]) ^ set(names)) or ["their order"]
            raise TrackingError(f"the saved tracker follows other layers; they differ in {odd[0]}")
        if state["momentum"] != self.momentum:
            raise TrackingError(
                f"the saved tracker has momentum {state['momentum']}, this one {self.momentum}; "
                "their frequencies do not compare"
            )
        if state["followed"] != self._followed():
            raise TrackingError(
                "the saved tracker follows the average of codes of other layers; make the Control "
                "with the same cures before loading"
            )
        self.steps, self._base = state["steps"], state["base"]
        self._fresh, self._known_from = {}, self.steps
        self._frequency.load(state["frequency"])
        if self._average is not None:
            self._average.load(state["average"])
        self._flips.copy_(state["flips"])
        self._oscillations.copy_(state["oscillations"])
        self._rate.copy_(state["rate"])
        if self._distance is not None and state["distance"] is not None:
            self._distance.load_state_dict(state["distance"])

    def _check_memory_formats(self) -> None:
        if self._strides != [weight.latent.stride() for weight in self.weights]:
            raise TrackingError(
                "a weight has changed its memory format since the tracker was made; move the model "
                "with .to(memory_format=...) first, then make the tracker"
            )

    def _layer(self, name: str) -> QuantizedWeight:
        if name not in self._index:
            raise KeyError(f"no tracked layer is called {name!r}; there are {list(self._index)}")
        return self.weights[self._index[name]]

    def _followed(self) -> list[str]:
        return [] if self._average is None else list(self._average)

    def _age(self) -> int:
        return self.steps - self._base

    def _rebase(self) -> None:
        if self.decay ** -self._age() > _REBASE_AT:
            shrink = self.decay ** (self._age() - 1)
            for flat in (self._frequency, self._average):
                if flat is not None:
                    flat.values.mul_(shrink)
            self._base = self.steps - 1

    def _advance(self) -> None:
        """Bring records, averages and counts from the last step to this one."""
        age = self._age()
        event, entry = self.momentum * self.decay**-age, self.decay ** -(age - 1)
        flips = torch.zeros_like(self._flips)
        self._fresh = {}
        for layer, weight in enumerate(self.weights):
            where = self._moved(layer, weight)
            if isinstance(where, slice):
                counts = self._advance_all(weight, event, entry)
                if not self._dense and counts[0] * _SPARSE < weight.latent.numel():
                    self._busy.discard(layer)
            elif len(where):
                counts = self._advance_at(weight, where, event, entry)
            else:
                continue
            flips[layer] = counts[0]
            self._oscillations[layer] += counts[1].to(torch.int64)
            self._fresh[layer] = where
        self._flips += flips
        self._rate.mul_(_RATE_MOMENTUM).add_(flips / self._sizes, alpha=1 - _RATE_MOMENTUM)

    def _moved(self, layer: int, weight: QuantizedWeight) -> Where:
        """Which entries to look at, by a pass that also pins; all of them where many move."""
        if self._dense or layer in self._busy:
            weight.pin()
            return slice(None)
        where = indices(weight.settle())
        if len(where) * _SPARSE > weight.latent.numel():
            self._busy.add(layer)
            return slice(None)
        return where

    def _advance_at(
        self, weight: QuantizedWeight, where: Tensor, event: float, entry: float
    ) -> tuple[Tensor, Tensor]:
        """Entry by entry; (flips, oscillations)."""
        records = weight.records
        moves = history.advance(records[where], weight.rounded(where), weight.layout)
        records[where] = moves.record
        self._frequency[weight.name][where] += event * moves.oscillated
        if self._average is not None and weight.name in self._average:
            self._average[weight.name][where] += entry * moves.jump
        return moves.flipped.sum(), moves.oscillated.sum()

    def _advance_all(self, weight: QuantizedWeight, event: float, entry: float) -> Tensor:
        """In one pass, for accelerators and for layers where much moved; (flips, oscillations)."""
        frequency, average = self._frequency[weight.name], None
        if self._average is not None and weight.name in self._average:
            average = self._average[weight.name]
        scalars = torch.tensor([event, entry], dtype=torch.float32, device=frequency.device)
        return weight.track(frequency, average, scalars[0].clone(), scalars[1].clone())

    def _averaged(self, weight: QuantizedWeight, where: Where, age: int) -> Tensor:
        if self._average is None or weight.name not in self._average:
            raise TrackingError(f"nothing follows the average of codes of {weight.name}")
        code = history.code_of(weight.records[where], weight.layout)
        return code + self._average[weight.name][where] * self.decay**age


class _Flat:
    """One float32 vector for many weights, with a view for each, in the order of its storage."""

    def __init__(self, weights: Sequence[QuantizedWeight], device: torch.device) -> None:
        sizes = [weight.latent.numel() for weight in weights]
        self.values = torch.zeros(sum(sizes), device=device)
        ends = accumulate(sizes)
        self._weights = list(weights)
        self._views = {
            weight.name: self.values[end - size : end]
            for weight, size, end in zip(weights, sizes, ends, strict=True)
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def in_order(self) -> Tensor:
        """A copy with each weight's entries in the order of its dimensions, for files."""
        return torch.cat([w.shaped(self._views[w.name]).flatten() for w in self._weights])

    def load(self, values: Tensor) -> None:
        """Undo `in_order`."""
        sizes = [weight.latent.numel() for weight in self._weights]
        for weight, part in zip(self._weights, values.split(sizes), strict=True):
            view = weight.shaped(self._views[weight.name])
            view.copy_(part.view(view.shape))

    def __contains__(self, name: str) -> bool:
        return name in self._views


def _remember(weight: QuantizedWeight) -> None:
    """Start the records of one layer from its codes now; what is frozen stays frozen."""
    records = weight.history
    code = weight.shaped(weight.emitted())
    fresh = history.pack(code, history.STILL, False, weight.layout)
    kept = history.pack(code, history.STILL, True, weight.layout)
    records.copy_(torch.where(weight.frozen, kept, fresh))
