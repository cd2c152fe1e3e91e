"""How good a network is."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from quiesce.errors import DataError
from quiesce.modes import inference
from quiesce.training.display import Display
from quiesce.training.finished import batches_within as batches_within
from quiesce.training.finished import read_finished


def evaluate(folder: Path, flags: Sequence[str] = (), display: Display | None = None) -> float:
    """Rebuild the network of a run folder and measure it on the test images.

    Args:
        folder: What a run left behind.
        flags: Override its recipe: ["--data.folder", "/elsewhere"].
        display: Where progress is drawn, entered by the caller; None draws nothing.

    Returns:
        Top-1 in percent.

    Raises:
        RecipeError: The folder is not that of a finished run, or a flag is wrong.
        CheckpointError: The network's file is damaged or does not fit the recipe.
        DataError: The test images can not be read.
    """
    run = read_finished(folder, flags)
    count = batches_within(run.recipe.trainer.limit_val_batches, len(run.data.test))
    batches = (display or Display()).track(run.test_batches(), "top-1", count)
    return top1_percent(run.network, batches)


@torch.no_grad()
def top1_percent(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of images whose largest logit is their label, in percent, over all processes.

    Args:
        network: Put in inference mode for the time; its modes come back.
        batches: Images (batch, channels, height, width) and labels (batch,), on any device.

    Raises:
        DataError: `batches` is empty.
    """
    device = next(network.parameters()).device
    right = torch.zeros(2, dtype=torch.int64, device=device)  # images right, images seen
    with inference(network):
        for images, labels in batches:
            guesses = network(images.to(device)).argmax(1)
            right += torch.stack(
                [(guesses == labels.to(device)).sum(), right.new_tensor(len(labels))]
            )
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(right)
    if not right[1]:
        raise DataError("there is no test image to measure the accuracy on")
    return 100 * right[0].item() / right[1].item()
