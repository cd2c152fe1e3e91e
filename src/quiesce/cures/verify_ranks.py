"""Periodic check that all processes of a data-parallel run have identical weights and state.

Processes with equal initial weights and averaged gradients stay identical. If they diverge (an
optimizer created before the weights were equal, random numbers in an update, a faulty device), each
process freezes different weights, without an error. This module compares the bits of the state.
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
    """Raise an error in all processes if their weights or tracking states differ.

    For each layer, latents, scale, history records (codes, directions, frozen flags), frequencies
    and averages of codes are compared. For a split latent weight, only the scale is compared. A few
    bytes per layer are exchanged. All processes must call this at the same step.

    Raises:
        RanksPartError: Processes differ. The message names the first layer that differs.

    Examples:
        >>> control = qs.Control(optimizer, weights, tracker)
        >>> qs.verify_ranks(control)  # one process: nothing differs
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
        "let all ranks start from the same checkpoint and average all gradients, or continue from "
        "the last checkpoint"
    )


def _held(weight: QuantizedWeight, tracker: OscillationTracker) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that must be equal in all processes, in the order of reporting."""
    if weight.shards is not None:
        yield "the scale", weight.whole_scale
        return
    yield "latent weights", weight.held
    yield "the scale", weight.raw_scale
    yield "codes or frozen weights", weight.history
    yield "oscillation frequencies", tracker.frequency(weight.name)
    if tracker.follows_average(weight.name):
        yield "averages of codes", tracker.average(weight.name)
