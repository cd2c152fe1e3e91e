"""How the tracker's step and state grow with the weights.

Writes results/scaling.json and a figure.

Usage: python benchmarks/scaling.py [--most 1000000000]
"""

import argparse
import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from measuring import interleaved, save
from tracker import time_tracker

from networks import cure_steps, data, float_step

BYTES_AT_WORK = 19  # a weight: latent, state, clone, flags, flips
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scaling.svg"


def over_weights(most: int) -> list[dict[str, Any]]:
    """Measure a tracker step and a clone in seconds, and bytes of state, from 1 M weights on.

    Stops when memory is not enough: 1,000 M need 19 GB.
    """
    rows, weights = [], 1_000_000
    while weights <= most:
        if weights * BYTES_AT_WORK > _available_bytes():
            print(f"{weights} weights do not fit into this machine's free memory; left out")
            break
        gc.collect()
        torch._dynamo.reset()
        seconds, state_bytes = time_tracker(weights, rounds=5)
        rows.append(
            {
                "weights": weights,
                "step_s": statistics.median(seconds["tracker step"]),
                "clone_s": statistics.median(seconds["clone"]),
                "state_bytes": state_bytes,
                "samples_s": seconds,
            }
        )
        print({key: value for key, value in rows[-1].items() if key != "samples_s"}, flush=True)
        weights *= 10
    return rows


def _available_bytes() -> int:
    """Return the memory that is free or can be freed; unlimited if Linux does not report it."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else sys.maxsize


def over_batch() -> list[dict[str, Any]]:
    """Return median seconds of a step of MobileNetV2 for growing batches, float and ours."""
    rows = []
    for batch in (4, 8, 16, 32, 64):
        batch_data = data(batch, 96)
        actions = {
            "float_s": float_step("mobilenetv2_100", batch_data),
            "freezing_s": cure_steps("mobilenetv2_100", "quantizers", batch_data)["freezing"],
        }
        samples = interleaved(actions, rounds=7)
        row = {"batch": batch} | {n: statistics.median(values) for n, values in samples.items()}
        print(row, flush=True)
        rows.append({**row, "samples_s": samples})
    return rows


def draw(weights: list[dict[str, Any]], batches: list[dict[str, Any]]) -> None:
    """Draw both figures in one row."""
    plt.rcParams["svg.hashsalt"] = "quiesce"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    x = [row["weights"] for row in weights]
    left.loglog(x, [row["step_s"] for row in weights], "o-", label="tracker step, 0.5 % flips")
    left.loglog(x, [row["clone_s"] for row in weights], "s--", label="clone of the weights")
    left.set(xlabel="weights", ylabel="seconds")
    right.plot([r["batch"] for r in batches], [r["float_s"] for r in batches], "s--", label="float")
    right.plot(
        [r["batch"] for r in batches],
        [r["freezing_s"] for r in batches],
        "o-",
        label='W4A4, freezing, "quantizers"',
    )
    right.set(xlabel="batch, MobileNetV2 at 96 px", ylabel="seconds per step", ylim=(0, None))
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Measure, write the file, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000_000)
    results: dict[str, Any] = {"weights": over_weights(parser.parse_args().most)}
    results["batches"] = over_batch()
    draw(results["weights"], results["batches"])
    print(save("scaling", results))


if __name__ == "__main__":
    main()
