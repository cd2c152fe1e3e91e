"""Diagnoses a run on disk, for `quiesce diagnose`."""

from collections.abc import Sequence
from pathlib import Path

import torch

from quiesce.after_training.restored import Restored, restore
from quiesce.diagnosis import diagnose_batchnorm
from quiesce.errors import RecipeError
from quiesce.run_folder.contents import DiagnosisFile
from quiesce.run_folder.folder import DIAGNOSIS, RECIPE, write_json
from quiesce.run_folder.reading import read_json
from quiesce.training.display import Display
from quiesce.training.recording.diagnosis_file import BATCHES, REESTIMATED, RUNNING, Diagnosis


def diagnose(
    run: Path,
    recipe: str | None = None,
    flags: Sequence[str] = (),
    display: Display | None = None,
) -> DiagnosisFile:
    """Rebuild network and tracker from a run's last checkpoint and diagnose them.

    In a run folder, diagnosis.json is written or replaced. A folder of `quiesce.record` has no
    recipe, so its existing diagnosis is returned.

    Args:
        run: A run folder, finished or not, or a checkpoint.
        recipe: Name or path of the recipe, if `run` is a checkpoint.
        flags: Flags that override the recipe: ["--data.folder", "/elsewhere"].
        display: Shows the progress; the caller enters its context. None shows nothing.

    Raises:
        RecipeError, CheckpointError, DataError: See `restore`.
    """
    if not (run / RECIPE).is_file() and (run / DIAGNOSIS).is_file():
        if recipe is not None or flags:
            raise RecipeError(
                f"{run} was recorded by a loop of yours and has no recipe: no flag applies to it"
            )
        return read_json(run / DIAGNOSIS, DiagnosisFile)
    restored = restore(run, recipe, flags)
    diagnosis = Diagnosis(finished=restored.finished)
    diagnosis.see_layers(restored.tracker, restored.prefix)
    _see_statistics(diagnosis, restored, display or Display())
    file = diagnosis.file()
    if run.is_dir():
        write_json(run / DIAGNOSIS, file.tree())
    return file


def _see_statistics(diagnosis: Diagnosis, restored: Restored, display: Display) -> None:
    network, measuring = restored.network, restored.measuring(display)
    count = restored.recipe.batchnorm.batches or BATCHES

    def see(kind: str) -> None:
        diagnosis.top1_percent[kind] = measuring.top1(network, kind)
        diagnosis.train_loss[kind] = measuring.training_loss(network, kind, count)

    see(RUNNING)
    with restored.reestimated(display) as kl:
        if kl:
            example = torch.zeros(1, *restored.data.input_shape, device=restored.device)
            diagnosis.norms = diagnose_batchnorm(network, kl, example)
            see(REESTIMATED)
