"""Stops tries whose first run has a worse test accuracy than those of other tries."""

from __future__ import annotations

from quiesce.run_folder.folder import METRICS
from quiesce.sweeps.status import accuracies
from quiesce.sweeps.sweep_folder import SweepFolder
from quiesce.tuning.tries import Try


def watch(each: Try, files: SweepFolder) -> None:
    """Show new epochs of the first run of a try to the pruner, until it decides to stop the try.

    Args:
        each: The try; `pruned` and `epochs` change.
        files: The folder of the runs.
    """
    if not each.runs:
        return
    for epoch, top1_percent in accuracies(files.run(each.runs[0]) / METRICS):
        if epoch < each.epochs:  # the pruner has seen it
            continue
        each.epochs = epoch + 1
        each.trial.report(top1_percent, step=each.epochs)
        if each.trial.should_prune():
            each.pruned = True
            return
