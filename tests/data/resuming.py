"""Checks that every source of pictures passes: workers, seeds, and resuming within an epoch."""

from dataclasses import replace

import torch

from quiesce.data import DataConfig, build_data

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def same(first: Batches, second: Batches) -> bool:
    """Whether all images and labels have the same bits."""
    return len(first) == len(second) and all(
        torch.equal(x, x2) and torch.equal(y, y2)
        for (x, y), (x2, y2) in zip(first, second, strict=True)
    )


def epochs(config: DataConfig, count: int, *, seed: int = 5) -> Batches:
    """Return the batches of the first epochs."""
    loader = build_data(config, seed=seed).train
    return [batch for _ in range(count) for batch in loader]


def goes_on(config: DataConfig, taken: int) -> bool:
    """Whether a loader that is stopped in epoch 1 goes on with the same batches elsewhere."""
    expected = epochs(config, 2)
    stopped = build_data(config, seed=5).train
    list(stopped)  # epoch 0
    batches = iter(stopped)
    for _ in range(taken):
        next(batches)
    resumed = build_data(config, seed=5).train
    resumed.load_state_dict(stopped.state_dict())
    return same(list(resumed), expected[len(resumed) + taken :])


def depends_on_the_seed_alone(config: DataConfig) -> bool:
    """Whether another seed gives other batches, and the same seed the same ones."""
    first = epochs(config, 1)
    torch.rand(3)  # the global generator moves; the batches must not
    return same(epochs(config, 1), first) and not same(epochs(config, 1, seed=6), first)


def sums(batches: Batches) -> list[float]:
    """Return the sum of each image, sorted: equal for the same images in any order."""
    return sorted(float(image.double().sum()) for images, _ in batches for image in images)


def with_workers(config: DataConfig, workers: int) -> DataConfig:
    """Return a config with another number of workers."""
    return replace(config, workers=workers)
