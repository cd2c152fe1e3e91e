"""Checks that all processes of a distributed run can train together."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from quiesce.errors import CheckpointError, DataError, RecipeError
from quiesce.parallel.processes import gathered_objects
from quiesce.training.resuming.found_checkpoint import Found


def refuse_other_checkpoints(found: Found | None, folder: Path) -> None:
    """Raise a CheckpointError unless all processes found the same checkpoint."""
    everyone = gathered_objects(
        None if found is None else (found.stage, found.step, found.path.name)
    )
    for rank, other in enumerate(everyone):
        if other != everyone[0]:
            raise CheckpointError(
                f"rank {rank} starts from {_start(other)} and rank 0 from {_start(everyone[0])}: "
                f"they see different files in {folder}; choose a folder that all machines share"
            )


def refuse_empty_share(limit: int | float | None, test: DataLoader[Any]) -> None:
    """Check that every process has test images; otherwise the other processes wait forever.

    Raises:
        DataError: There are fewer test images than processes.
        RecipeError: `limit` is so small that no batch is left.
    """
    fewest = min(gathered_objects(len(test)))
    if fewest == 0:
        raise DataError("there are fewer test images than processes; train with fewer devices")
    if isinstance(limit, float) and int(limit * fewest) == 0:
        raise RecipeError(
            f"trainer.limit_val_batches: {limit:.3g} of {fewest} batches is less than one; it must "
            f"be at least {1 / fewest:.3g}"
        )


def _start(mark: tuple[str, int, str] | None) -> str:
    if mark is None:
        return "the beginning"
    stage, step, name = mark
    return f"step {step} of the {stage} network ({name})"
