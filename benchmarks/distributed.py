"""Cost of the tracker and the cures under DDP, with two processes on a CPU.

Writes results/distributed.json. One run times steps of the same network at W4A4, in compile mode
"off", without a tracker (LSQ) and with each cure. The variants alternate, so that other load on the
machine affects all of them. A ratio is a ratio of medians.

Usage: python benchmarks/distributed.py [--steps 40]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import save
from torch import distributed, multiprocessing
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import quiesce as qs
from networks import data, quantized_network, sgd

PROCESSES = 2
NETWORKS = {"mobilenetv2_mnist": (32, 28), "mobilenetv2_100": (8, 96)}
"""Name to batch of one process and image size."""
KINDS = ("LSQ", "tracker", "dampening", "freezing", "freezing, verified every step")


class Contestant:
    """One variant of training the network, in this process."""

    def __init__(self, kind: str, name: str, rank: int) -> None:
        batch, size = NETWORKS[name]
        images, labels = data(batch * PROCESSES, size)
        self.images, self.labels = images[rank::PROCESSES], labels[rank::PROCESSES]
        inner = quantized_network(name, "off", images)
        self.model = DistributedDataParallel(inner)
        self.optimizer = sgd(self.model)
        self.verified = "verified" in kind
        self.control = None
        if kind != "LSQ":
            weights = qs.quantized_weights(inner)
            tracker = qs.OscillationTracker(weights, 0.01)
            cures = {"dampening": qs.Dampening(1e-4), "freezing": qs.Freezing(0.02)}
            mine = [cure for cure_kind, cure in cures.items() if kind.startswith(cure_kind)]
            self.control = qs.Control(self.optimizer, weights, tracker, mine)

    def step(self) -> float:
        """Time one step, in seconds."""
        distributed.barrier()
        started_s = time.perf_counter()
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(self.images), self.labels)
        if self.control is not None:
            loss = loss + self.control.penalty()
        loss.backward()
        self.optimizer.step()
        if self.verified and self.control is not None:
            qs.verify_ranks(self.control)
        return time.perf_counter() - started_s


def measure(rank: int, steps: int, folder: str) -> None:
    """Run in each process; the first one writes the medians to a file."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES)
    results: dict[str, Any] = {}
    for name in NETWORKS:
        contestants = {kind: Contestant(kind, name, rank) for kind in KINDS}
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for i in range(steps + 3):
            for kind, contestant in contestants.items():
                taken_s = contestant.step()
                if i >= 3:  # the first steps allocate
                    seconds[kind].append(taken_s)
        results[name] = {kind: median(taken) for kind, taken in seconds.items()}
    if rank == 0:
        torch.save(results, Path(folder) / "seconds.pt")
    distributed.destroy_process_group()


def main() -> None:
    """Start the processes, print the ratios, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, (steps, folder), nprocs=PROCESSES)  # pyright: ignore
        seconds = torch.load(Path(folder) / "seconds.pt")
    results: dict[str, Any] = {"processes": PROCESSES, "threads_each": 1, "steps": steps}
    for name, medians in seconds.items():
        ratios = {kind: taken / medians["LSQ"] for kind, taken in medians.items()}
        results[name] = {"median_s": medians, "over_LSQ": ratios}
        print(name, {kind: round(ratio, 3) for kind, ratio in ratios.items()})
    print(save("distributed", results))


if __name__ == "__main__":
    main()
