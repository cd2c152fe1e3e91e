"""Peak memory of a training step, ours against float; writes results/memory.json.

The memory is counted, not sampled: torch's profiler reports every allocation of the CPU allocator
during the step, and the memory allocated before the step (parameters, momentum, state) is added.
Unused memory of the allocator, Python and compilers are not counted. Two runs give the same number.

Usage: python benchmarks/memory.py
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from measuring import save
from torch import Tensor
from torch.nn import Parameter
from torch.profiler import ProfilerActivity, profile

from networks import cure_steps, data, float_step


def peak_bytes(step: Callable[[], Any]) -> int:
    """Return the peak of allocated bytes in one call of `step`, including earlier allocations."""
    for _ in range(3):
        step()
    before = _alive_bytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    kineto = recorded.profiler.kineto_results
    alive, peak = 0, 0
    for event in kineto.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return before + peak


def _alive_bytes() -> int:
    """Return the bytes of model, optimizer and tracker tensors, counting each storage once."""
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, Parameter)]
    storages = {}
    for tensor in tensors:
        # a compiler leaves stand-ins behind, which have no memory
        with suppress(RuntimeError):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def main() -> None:
    """Measure MobileNetV2 at two batch sizes in every mode."""
    results: dict[str, Any] = {}
    for batch in (16, 64):
        batch_data = data(batch, 96)
        measured = {"float eager": _measure(lambda b=batch_data: float_step("mobilenetv2_100", b))}
        for mode in ("off", "quantizers", "model"):
            measured[f"freezing, {mode}"] = _measure(
                lambda b=batch_data, m=mode: cure_steps("mobilenetv2_100", m, b)["freezing"]
            )
        floats = measured["float eager"]
        ratios = {f"{name} / float eager": used / floats for name, used in measured.items()}
        results[f"mobilenetv2_{batch}"] = {"peak_bytes": measured, "ratios": ratios}
        print(batch, {name: round(value, 3) for name, value in ratios.items()}, flush=True)
    print(save("memory", results))


def _measure(make: Callable[[], Callable[[], Any]]) -> int:
    gc.collect()
    peak = peak_bytes(make())
    gc.collect()
    torch._dynamo.reset()
    return peak


if __name__ == "__main__":
    main()
