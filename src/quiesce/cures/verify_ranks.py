"""Whether the processes of a data parallel run still hold the same: asked now and then.

Processes that start alike and average their gradients step alike. Where one does not (an optimizer
that was made before the weights were equal, random numbers in an update, a faulty device), each
freezes what oscillates at its own place, and nothing tells. This asks, exactly: bits are compared.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from quiesce.arithmetic.checksum import checksum
from quiesce.cures.control import Control
from quiesce.errors import RanksPartError
from quiesce.oscillation.tracker import OscillationTracker
from quiesce.parallel.processes import are_many, gathered
from quiesce.quantization.quantized_weight import QuantizedWeight


@torch.no_grad()
def verify_ranks(control: Control) -> None:
    """Stop all processes where they hold different weights or remember them differently.

    Compared are, layer by layer, latents, scale, history records (codes, directions, what is
    frozen), frequencies and averages of codes; of a latent that is split the scale alone. A few
    bytes per layer are exchanged. All processes call this at the same step.

    Raises:
        RanksPartError: They part; the first layer that does is named. Raised in all of them.
    """
    if not are_many():
        return
    device = control.weights[0].held.device
    steps = gathered(torch.tensor([control.step], device=device))
    if len({int(each) for each in steps}) > 1:
        raise RanksPartError(
            f"processes are at different steps ({', '.join(str(int(s)) for s in steps)}); step the "
            "optimizer in all of them, or in none"
        )
    kinds = [(w.name, kind, v) for w in control.weights for kind, v in _held(w, control.tracker)]
    sums = torch.stack([checksum(values) for *_, values in kinds])
    each = torch.stack(gathered(sums))
    differ = each != each[0]
    if not bool(differ.any()):
        return
    entry = int(differ.any(0).nonzero()[0])
    rank = int(differ[:, entry].nonzero()[0])
    name, kind, _ = kinds[entry]
    raise RanksPartError(
        f"{name}: {kind} of rank {rank} and of rank 0 are not the same after step {control.step}; "
        "let all ranks start from the same checkpoint and average all gradients, or go on from the "
        "last checkpoint"
    )


def _held(weight: QuantizedWeight, tracker: OscillationTracker) -> Iterator[tuple[str, Tensor]]:
    """What must be the same everywhere, in the order in which to tell of it."""
    if weight.shards is not None:
        yield "the scale", weight.whole_scale
        return
    yield "latent weights", weight.held
    yield "the scale", weight.raw_scale
    yield "codes or frozen weights", weight.history
    yield "oscillation frequencies", tracker.frequency(weight.name)
    if tracker.follows_average(weight.name):
        yield "averages of codes", tracker.average(weight.name)
