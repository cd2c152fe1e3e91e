"""Benchmark of the tracker: one step over many weights, with a given share of flips."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.quantization.compile import CompileMode

FLIPS = 0.005  # share of codes that change in each step
_PERIOD = 8  # sets of flips that take turns


class Stand(nn.Module):
    """One layer with a weight of a given size; it never runs on data."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1000, weights // 1000, bias=False, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on one sample, for `prepare`."""
        return self.layer(x)


def tracker_step(
    weights: int, mode: CompileMode
) -> tuple[Callable[[], Any], Callable[[], Any], Tensor, qs.OscillationTracker]:
    """Return what flips `FLIPS` of the codes, a tracker step, the latent, and the tracker."""
    torch.manual_seed(0)
    model = Stand(weights)
    scheme = qs.Scheme(weight_bits=4, act_bits=None, first_last_bits=None, ranges="lsq")
    qs.compile(qs.prepare(model, scheme, torch.zeros(1, 1000)), mode)
    [weight] = qs.quantized_weights(model)
    tracker = qs.OscillationTracker([weight], distance=None)
    freezing = qs.Freezing(0.5, max_frozen=None)
    freezing.attach([weight], tracker)  # so that the averages of codes are kept too
    latent, scale = weight.latent.detach(), weight.scale  # where the tracker has moved it
    latent.random_(weight.grid.quant_min + 1, weight.grid.quant_max).mul_(scale)  # mid-bin
    flat = latent.view(-1)
    sets = [torch.randint(0, weights, (int(weights * FLIPS),)) for _ in range(_PERIOD)]
    tracker.step()
    turn = iter(range(10**9))

    def flip() -> None:
        chosen = sets[next(turn) % _PERIOD]
        up = flat[chosen] < 0
        flat[chosen] += torch.where(up, scale, -scale)

    return flip, tracker.step, latent, tracker


def time_tracker(weights: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Time a tracker step and a clone of the latents, alternating, in seconds; bytes of state."""
    flip, step, latent, tracker = tracker_step(weights, "quantizers")
    samples: dict[str, list[float]] = {"tracker step": [], "clone": []}
    for turn in range(rounds + 2):
        flip()
        for name, action in (("tracker step", step), ("clone", latent.clone)):
            started_s = time.perf_counter()
            action()
            if turn >= 2:
                samples[name].append(time.perf_counter() - started_s)
    return samples, tracker.state_bytes()
