"""Where a step spends its time; writes results/profiles.json, which docs/performance.md explains.

Usage: python benchmarks/profiles.py
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from measuring import interleaved, save
from torch.profiler import ProfilerActivity, profile

import quiesce as qs
from networks import SCALE_LR, cure_steps, data, float_step, quantized_network, sgd, step
from quiesce.arithmetic import kernels
from quiesce.quantization.quantizer import FakeQuantizer

STEPS = 3
MOST = 14
"""Operators that are kept of each profile."""

KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
}
"""Lets glibc keep what is freed instead of giving it back to the system."""


def operators(call: Callable[[], Any]) -> dict[str, dict[str, float]]:
    """Return self time in ms and calls, per step, of the most expensive operators."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            call()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {
        event.key[:60]: {
            "ms": event.self_cpu_time_total / STEPS / 1e3,
            "calls": event.count / STEPS,
        }
        for event in events[:MOST]
    }


def profiles(actions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the median step of each action, timed alternating, and its operators."""
    samples = interleaved(actions, rounds=8)
    return {
        name: {
            "ms_per_step": 1e3 * statistics.median(samples[name]),
            "operators": operators(call),
        }
        for name, call in actions.items()
    }


def whole_model(name: str, batch: int, size: int) -> dict[str, Any]:
    """Compare float, eager and compiled, with ours with the model compiled."""
    batch_data = data(batch, size)
    ours = cure_steps(name, "model", batch_data)
    actions = {
        "float eager": float_step(name, batch_data),
        "float compiled": float_step(name, batch_data, compiled=True),
        **{f"{cure}, model": ours[cure] for cure in ("lsq", "freezing")},
    }
    return profiles(actions)


def quantizers() -> dict[str, Any]:
    """Compare MobileNetV2 in float with LSQ with fused quantizers."""
    batch_data = data(16, 96)
    ours = cure_steps("mobilenetv2_100", "quantizers", batch_data)["lsq"]
    return profiles(
        {"float eager": float_step("mobilenetv2_100", batch_data), "lsq, quantizers": ours}
    )


def one_call() -> dict[str, float]:
    """Time a fused quantizer on 400 entries, in microseconds: nearly all of it is the call."""
    quantizer = FakeQuantizer(4, grad_scaling=True)
    quantizer.set_grid(qs.Grid(4, signed=False), torch.tensor(0.1))
    quantizer.kernels = kernels.FUSED
    x, grad = torch.randn(8, 50, requires_grad=True), torch.randn(8, 50)
    y, plain = quantizer(x), torch.tanh(x)
    calls = {
        "forward": lambda: quantizer(x),
        "backward": lambda: y.backward(grad, retain_graph=True),
        "backward of tanh": lambda: plain.backward(grad, retain_graph=True),
    }
    samples = interleaved(calls, rounds=3000, warmup=50)
    return {name: 1e6 * statistics.median(values) for name, values in samples.items()}


def after_a_step() -> dict[str, float]:
    """Time tracker and freezing while MobileNetV2 trains, with cold caches, in milliseconds."""
    batch_data = data(16, 96)
    model = quantized_network("mobilenetv2_100", "quantizers", batch_data[0])
    weights = qs.quantized_weights(model)
    tracker, freezing = qs.OscillationTracker(weights), qs.Freezing(0.02)
    optimizer = sgd(model)
    qs.Control(optimizer, weights, tracker, [freezing])
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started_s = time.perf_counter()
            result = call(*args)
            seconds.setdefault(name, []).append(time.perf_counter() - started_s)
            return result

        return run

    tracker.step = timed("tracker", tracker.step)
    freezing.after_step = timed("freezing", freezing.after_step)
    for state in tracker._states:
        name = f"tracker, {state.group.grid.bits} bits"
        state.advance = timed(name, state.advance)
    call = step(model, optimizer, batch_data)
    for _ in range(4):
        call()
    seconds.clear()
    for _ in range(12):
        call()
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def faults() -> dict[str, dict[str, float]]:
    """Return median ms and page faults of a step: float, and LSQ in "quantizers" mode."""
    batch_data = data(16, 96)
    ours = cure_steps("mobilenetv2_100", "quantizers", batch_data)["lsq"]
    actions = {"float eager": float_step("mobilenetv2_100", batch_data), "lsq, quantizers": ours}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in actions}
    for turn in range(12):
        for name, call in actions.items():
            before, started_s = _minor_faults(), time.perf_counter()
            call()
            passed_s = time.perf_counter() - started_s
            if turn >= 4:
                found[name].append((1e3 * passed_s, _minor_faults() - before))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    return {name: {"ms": ms, "page_faults": count} for name, (ms, count) in medians.items()}


def vector_instructions() -> float:
    """Time torch's search for usable vector instructions, once per machine, in seconds."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    started_s = time.perf_counter()
    pick_vec_isa()
    return time.perf_counter() - started_s


def in_a_process(part: str, env: Mapping[str, str]) -> Any:
    """Run a function of this file in a separate process, and return its result."""
    done = subprocess.run(
        [sys.executable, __file__, part],
        cwd=Path(__file__).parent,
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    """Measure everything, print the results, and write the file."""
    if len(sys.argv) > 1:
        print(json.dumps({"faults": faults, "isa": vector_instructions}[sys.argv[1]]()))
        return
    results: dict[str, Any] = {"scale_lr": SCALE_LR}
    with tempfile.TemporaryDirectory() as cache:
        empty = {"TORCHINDUCTOR_CACHE_DIR": cache}
        results["vector_instructions_s"] = in_a_process("isa", empty)
    results["page_faults"] = [in_a_process("faults", {}) for _ in range(2)]
    results["page_faults, memory kept"] = [in_a_process("faults", KEEP_MEMORY) for _ in range(2)]
    parts: dict[str, Callable[[], Any]] = {
        "one_call_us": one_call,
        "after_a_step_ms": after_a_step,
        "mobilenetv2_16": quantizers,
        "resnet18": lambda: whole_model("resnet18", 16, 96),
        "vit_tiny": lambda: whole_model("vit_tiny_patch16_224", 8, 224),
    }
    for name, part in parts.items():
        torch.compiler.reset()
        results[name] = part()
        print(name, flush=True)
    print(save("profiles", results))


if __name__ == "__main__":
    main()
