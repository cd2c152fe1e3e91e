"""Seconds of 500 training steps in each compile mode, including compiling.

Writes results/modes.json. Every run is a separate process: first with an empty compiler cache, then
with the cache that the first one wrote.

Usage: python benchmarks/modes.py [--steps 500]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import save

from networks import cure_steps, data
from quiesce.quantization.compile import MODES, CompileMode

NETWORKS = {"mobilenetv2_mnist": (32, 28), "mobilenetv2_100": (16, 96)}
"""Name to batch and image size: the network of the demo, and one twenty times as large."""


def train(name: str, mode: CompileMode, steps: int) -> dict[str, float]:
    """Return the seconds until the first step was done, and until all steps were."""
    call = cure_steps(name, mode, data(*NETWORKS[name]))["freezing"]
    started_s = time.perf_counter()
    call()
    first_s = time.perf_counter() - started_s
    for _ in range(steps - 1):
        call()
    return {"first_step_s": first_s, "all_steps_s": time.perf_counter() - started_s}


def in_a_process(name: str, mode: CompileMode, steps: int, cache: str) -> dict[str, float]:
    """Run `train` in a separate process, with this folder as the compiler's cache."""
    done = subprocess.run(
        [sys.executable, __file__, "--steps", str(steps), "--one", name, mode],
        cwd=Path(__file__).parent,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Train both networks in every mode, print the results, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "MODE"), help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.one:
        print(json.dumps(train(known.one[0], known.one[1], known.steps)))
        return
    results: dict[str, Any] = {"steps": known.steps}
    for name in NETWORKS:
        results[name] = {}
        for mode in MODES:
            with tempfile.TemporaryDirectory() as cache:
                for run in ("empty cache",) if mode == "off" else ("empty cache", "full cache"):
                    seconds = in_a_process(name, mode, known.steps, cache)
                    results[name][f"{mode}, {run}"] = seconds
                    print(name, mode, run, seconds, flush=True)
    print(save("modes", results))


if __name__ == "__main__":
    main()
