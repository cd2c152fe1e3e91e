"""Timing for benchmarks, and result files with every sample, machine, versions and commit."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    actions: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Time calls, in rounds that call every action once: seconds of each call.

    Other load on the machine then slows all actions equally, and ratios of medians stay valid.
    """
    for action in actions.values():
        for _ in range(warmup):
            action()
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started_s = time.perf_counter()
            action()
            samples[name].append(time.perf_counter() - started_s)
    return samples


def ratio(samples: Mapping[str, list[float]], what: str, to: str) -> float:
    """Return the ratio of the medians of two series from the same rounds."""
    return statistics.median(samples[what]) / statistics.median(samples[to])


def save(name: str, results: dict[str, Any]) -> Path:
    """Write `results/<name>.json`, with machine, versions and commit."""
    record = {"version": 1, "made": time.strftime("%Y-%m-%d"), **environment(), **results}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def environment() -> dict[str, Any]:
    """Return machine, versions and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": "cpu",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("quiesce", "torch", "timm", "brevitas")},
        },
        "commit": commit,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
