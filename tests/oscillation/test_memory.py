"""Bytes that tracking and freezing take of a weight, counted from the tensors themselves."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from support.small_networks import Walk, weights_only

SIZE = 2**19  # read where it is: no scratch buffer


def tensors_of(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from an object of ours, weights of the model aside."""
    if id(thing) in seen or isinstance(thing, qs.QuantizedWeight | torch.optim.Optimizer):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    parts: Any = ()
    if isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, list | tuple | set):
        parts = thing
    elif type(thing).__module__.startswith("quiesce"):
        parts = getattr(thing, "__dict__", {}).values()
    for part in parts:
        yield from tensors_of(part, seen)


def bytes_per_weight(walk: Walk) -> float:
    """Storage held by control, tracker, cures, quantizers' buffers, over the number of weights."""
    held = list(tensors_of(walk.control, set()))
    for weight in walk.weights:
        held += weight.module.weight_quantizer.buffers()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    for weight in walk.weights:  # the parameters' own memory is the model's
        storages.pop(weight.latent.untyped_storage().data_ptr(), None)
    weights = sum(weight.latent.numel() for weight in walk.weights)
    return sum(storages.values()) / weights


def walk_of(bits: int, moving: float, **options: Any) -> Walk:
    """Three steps of a large layer in which this share of the weights moves each time."""
    layer = nn.Linear(SIZE // 64, 64, bias=False)
    qs.prepare(layer, weights_only(weight_bits=bits, **options), torch.zeros(1, SIZE // 64))
    walk = Walk(
        layer, [qs.Freezing(0.5, max_bits=8, max_frozen=None), qs.Dampening(0.1)], momentum=0.1
    )
    for step in range(3):
        latents = torch.zeros(SIZE)
        latents[: int(SIZE * moving)] = float(step % 2)
        walk.to(latents)
        walk.control.penalty().backward()
    assert walk.tracker.report()[0].flips_per_step == int(SIZE * moving)
    return walk


SAMPLED = 2 * 4 * 1024 / SIZE  # of each layer: where some weights were, for the distance ratio
FEW = 0.01  # scales, ends of grids, counts: a fixed number of each, over so many weights


def test_four_bits_with_freezing_take_nine_bytes() -> None:
    assert bytes_per_weight(walk_of(4, moving=0.0)) <= 9 + SAMPLED + FEW


@pytest.mark.parametrize(
    "bits", [pytest.param(b, marks=() if b in (3, 8) else pytest.mark.slow) for b in range(2, 9)]
)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])
def test_any_scheme_takes_at_most_twelve_bytes(bits: int, per_channel: bool) -> None:
    moving = 0.01  # of which the index is kept until the next step
    bound = (9 if bits <= 4 else 12) + SAMPLED + FEW + 8 * moving
    assert bytes_per_weight(walk_of(bits, moving, per_channel=per_channel)) <= bound


@pytest.mark.parametrize("moving", [0.05, 0.07, 1.0])
def test_an_index_of_what_moved_never_takes_as_much_as_one_byte(moving: float) -> None:
    assert bytes_per_weight(walk_of(4, moving)) <= 9.5 + SAMPLED + FEW


def test_tracking_alone_takes_five_bytes_for_few_bits() -> None:
    walk = walk_of(4, moving=0.0)
    alone = Walk(walk.weights[0].module)
    alone.at_random(1)
    assert bytes_per_weight(alone) <= 5 + SAMPLED + FEW


def test_the_count_would_see_what_is_held() -> None:
    walk = walk_of(4, moving=0.0)
    before = bytes_per_weight(walk)
    walk.control.cures[0].extra = [torch.zeros(SIZE)]
    assert bytes_per_weight(walk) == before + 4
