"""Very large networks: 2,000 layers, and one layer of 200 million weights.

Each is prepared, trained with tracker and freezing, and saved, in a separate process whose peak
memory is measured. Writes results/wide.json.

Usage: python benchmarks/wide.py    (some minutes, 5.5 GB of memory)
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measuring import save
from torch import Tensor, nn

import quiesce as qs
from quiesce.run_folder.network_file import save_network

LAYERS = 2_000
SIDE = 14_143  # a square layer of 200 million weights
MOST_PEAK_GIB = 5.5


class Residual(nn.Module):
    """Many small layers that each add a little, so that values neither vanish nor explode."""

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.01 * layer(x)
        return x


def deep() -> tuple[nn.Module, Tensor, qs.Scheme]:
    """Return a network of 2,000 layers with quantized inputs."""
    scheme = qs.Scheme(weight_bits=4, act_bits=4, grad_scaling=True)
    return Residual(LAYERS), torch.randn(8, 16), scheme


def wide() -> tuple[nn.Module, Tensor, qs.Scheme]:
    """Return one layer of 200 million weights."""
    layer = nn.Linear(SIDE, SIDE, bias=False)
    return layer, torch.randn(2, SIDE), qs.Scheme(weight_bits=4, act_bits=None, first_last_bits=4)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor, qs.Scheme]]] = {
    "deep": deep,
    "wide": wide,
}


def measure(name: str) -> dict[str, Any]:
    """Return the seconds of each part, and the peak memory of this process."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Any:
        started_s = time.perf_counter()
        yield
        seconds[what] = time.perf_counter() - started_s

    with timed("make"):
        model, inputs, scheme = NETWORKS[name]()
    with timed("prepare"):
        qs.prepare(model, scheme, inputs[:1])
    with timed("calibrate"):
        qs.calibrate(model, [inputs])
    if name == "wide":
        qs.compile(model, "quantizers")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with timed("track"):
        weights = qs.quantized_weights(model)
        tracker = qs.OscillationTracker(weights)
        control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.05)])
    watch = qs.Watch(model)
    steps = 3
    for step in range(steps):
        with timed(f"step {step}"):
            if name == "deep":
                loss = model(inputs).square().mean() + control.penalty()
                optimizer.zero_grad()
                loss.backward()
                watch.check(loss, lambda: model(inputs))
            else:  # moved by hand: gradients of such a layer are no concern of ours
                weights[0].latent.data.mul_(0.999 if step % 2 else 1.001)
            optimizer.step()
    with timed("report"):
        summary = tracker.summary()
    with tempfile.TemporaryDirectory() as folder, timed("save"):
        save_network(model, Path(folder, "network.safetensors"))
        file_bytes = Path(folder, "network.safetensors").stat().st_size
    return {
        "layers": len(weights),
        "weights": summary.weights,
        "steps": tracker.steps,
        "seconds": seconds,
        "tracker_bytes_per_weight": tracker.state_bytes() / summary.weights,
        "file_bytes": file_bytes,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Measure each network in a separate process."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    results = {}
    for name in NETWORKS:
        ran = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(ran.stderr)
        results[name] = json.loads(ran.stdout.splitlines()[-1])
        print(name, results[name], flush=True)
    print(save("wide", results))
    sys.exit(any(result["peak_gib"] > MOST_PEAK_GIB for result in results.values()))


if __name__ == "__main__":
    main()
