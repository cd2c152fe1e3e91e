"""A rewritten network as a file of a target: compared with the trained network in its runtime."""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn

from quiesce.export.biases.layer_integers import read_inputs, read_integers
from quiesce.export.checks import left_float
from quiesce.export.interface import LOGITS, Example
from quiesce.export.targets.pt2e.rewriting import Rewritten
from quiesce.export.targets.pt2e.variants import cut_at_codes, fed_example, with_codes
from quiesce.export.targets.target import File, Network, Refusal, Run
from quiesce.export.verification.comparison import Candidate
from quiesce.export.verification.file_contents import unit_of
from quiesce.export.verification.trained_codes import Computed, as_array

Lower: TypeAlias = Callable[[fx.GraphModule, tuple[Tensor, ...]], bytes]
"""Returns a network as the bytes of a file, from arguments for a batch of one."""

Open: TypeAlias = Callable[[bytes], Callable[[Sequence[np.ndarray]], list[np.ndarray]]]
"""Opens a file: a function from its arguments, for a batch of one, to its outputs."""

Read: TypeAlias = Callable[[bytes], Sequence[bytes]]
"""Returns the constants of a file as they are stored: int8 and float32, in any layout."""


def refusals(network: Network) -> list[Refusal]:
    """Return what these formats do not take."""
    return [
        Refusal(
            layer=name,
            problem="its input has a learned offset, which is not a multiple of the scale",
            instead="prepare it with learn_offset=False",
        )
        for name, grid in network.grids.items()
        if grid.offset is not None
    ]


def one_by_one(run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]) -> Run:
    """Return a function of batches from one for a batch of one, whose outputs have no names."""

    def batches(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(feed.values())))
        found = [run([array[i : i + 1] for array in feed.values()]) for i in range(count)]
        arrays = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        if len(arrays) == 1:
            return {LOGITS: arrays[0]}
        return {f"output.{place}": array for place, array in enumerate(arrays)}

    return batches


class PT2EFile(File):
    """A file that was lowered from a rewritten network.

    Args:
        made: The network.
        runtime: Name of the runtime.
        lower: Writes a variant of the network.
        opened: Runs what `lower` writes.
        read: Reads the constants of what `lower` writes.
        rounded_biases: Whether the biases of the network were rounded.
    """

    def __init__(
        self,
        made: Rewritten,
        *,
        runtime: str,
        lower: Lower,
        opened: Open,
        read: Read,
        rounded_biases: bool,
    ) -> None:
        self._made = made
        self._runtime = runtime
        self._lower = lower
        self._open = opened
        self._read = read
        self._rounded = rounded_biases
        self.content = lower(made.module, made.example)

    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """See `File`."""
        layers = read_integers(model)
        last = self._made.weights.get(self._made.last)
        return Candidate(
            where=where,
            runtime=self._runtime,
            runner=_Runner(self._made, self.content, self._lower, self._open),
            grids=read_inputs(model),
            made_by=self._made.made_by,
            last=self._made.last,
            unit=1.0 if last is None else unit_of(layers[last]),
            wrong_weights=self._wrong_weights(model),
            left_float=left_float(model),
            rounded_biases=self._rounded,
            allowed=allowed,
        )

    def write(self, path: Path) -> None:
        """See `File`."""
        path.write_bytes(self.content)

    def notes(self) -> list[str]:
        """Say how many layers compute in integers."""
        integer, all_layers = len(self._made.integer), len(self._made.weights)
        return [f"layers that compute in integers: {integer} of {all_layers}"]

    def _wrong_weights(self, model: nn.Module) -> list[str]:
        """Find layers whose trained codes, or their values, are not among the file's constants."""
        layers = read_integers(model)
        constants = self._read(self.content)
        wrong = []
        for name, layer in self._made.weights.items():
            expected = self._made.stored_weight(name, layers[layer].codes)
            count = _missing(expected, constants)
            if count is None:
                wrong.append(f"{name}: the file has no weight of its size")
            elif count:
                wrong.append(f"{name}: {count} weight codes are not the trained ones")
        return wrong


def _missing(expected: np.ndarray, constants: Sequence[bytes]) -> int | None:
    """Return how many numbers of a weight the nearest constant does not have, in any layout."""
    layouts = {expected.transpose(axes).tobytes() for axes in permutations(range(expected.ndim))}
    if not layouts.isdisjoint(constants):
        return 0
    counts = []
    for content in constants:
        if len(content) != expected.nbytes:
            continue
        array = np.frombuffer(content, dtype=expected.dtype)
        for layout in layouts:
            counts.append(np.count_nonzero(array != np.frombuffer(layout, dtype=expected.dtype)))
    return min(counts, default=None)


class _Runner:
    """A lowered network, and its variants that show and take codes."""

    def __init__(self, made: Rewritten, content: bytes, lower: Lower, opened: Open) -> None:
        self._made = made
        self._lower = lower
        self._open = opened
        self._file = opened(content)
        self._whole = opened(lower(with_codes(made), made.example))
        self._cut: Any = None

    def check_inputs(self, example: Example) -> None:
        """Do nothing: the network was traced with these arguments."""

    def whole(self, example: Example) -> Computed:
        """Run the file, and its variant that also returns codes."""
        found = self._run(self._whole, example, {})
        outputs = self._each(self._file, example, {})
        return Computed(found.codes, dict(zip(self._made.outputs, outputs, strict=True)))

    def layers(self, example: Example, codes: Mapping[str, np.ndarray]) -> dict[str, Computed]:
        """Run every layer on `codes`."""
        if self._cut is None:
            cut = cut_at_codes(self._made)
            self._cut = self._open(self._lower(cut, fed_example(self._made, codes)))
        fed = {name: self._made.stored(name, codes[name]) for name in self._made.codes}
        return {"cut": self._run(self._cut, example, fed)}

    def _run(self, opened: Any, example: Example, fed: Mapping[str, np.ndarray]) -> Computed:
        found = self._each(opened, example, fed)
        count = len(self._made.outputs)
        codes = {
            name: self._made.unstored(name, array)
            for name, array in zip(self._made.codes, found[count:], strict=True)
        }
        return Computed(codes, dict(zip(self._made.outputs, found, strict=False)))

    def _each(
        self, opened: Any, example: Example, fed: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Return what a file computes from each entry of the batch."""
        found = []
        for place in range(example.size):
            one = example.rows(place, place + 1).to(torch.device("cpu"))
            tensors = [as_array(tensor) for tensor in one.tensors.values()]
            found.append(opened([*tensors, *(each[place : place + 1] for each in fed.values())]))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]
