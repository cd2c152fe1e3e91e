"""The stages of a run, in order: float network, quantize, train, re-estimate, correct, write.

Every stage takes the `Job`, changes its network, and adds to its measurements.
"""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

from lightning import Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

import quiesce as qs
from quiesce.diagnosis import (
    correct_quantization,
    diagnose_batchnorm,
    has_statistics,
    learn_codes,
    population_statistics,
)
from quiesce.integrations.lightning.quiesce_callback import WatchCallback
from quiesce.parallel.processes import raised_together
from quiesce.recipes.sections import LrScheduleConfig
from quiesce.run_folder.folder import (
    DIAGNOSIS,
    FLOAT_CHECKPOINT,
    FLOAT_NETWORK,
    NETWORK,
    SUMMARY,
    write_json,
)
from quiesce.run_folder.network_file import save_network
from quiesce.training.classifier import NETWORK_PREFIX, Classifier
from quiesce.training.job import Job, checkpoints
from quiesce.training.optimizers import joined_optimizer, make_optimizer
from quiesce.training.process_checks import refuse_empty_share, refuse_other_checkpoints
from quiesce.training.recording.diagnosis_file import BATCHES, REESTIMATED, RUNNING
from quiesce.training.recording.service_loggers import begin_services
from quiesce.training.recording.summary import summarize
from quiesce.training.resuming.found_checkpoint import FLOAT, QUANTIZED, Found
from quiesce.training.resuming.random_states import seed_all
from quiesce.training.trainer import fit, gather_processes, is_first_process, make_trainer


def run_stages(job: Job) -> dict[str, Any]:
    """Run all stages that a checkpoint has not finished; return the content of summary.json."""
    gather_processes(job.trainer)
    refuse_other_checkpoints(job.found, job.folder)
    refuse_empty_share(job.recipe.trainer.limit_val_batches, job.data.test)
    if (trained := job.found_in(QUANTIZED)) is None or not trained.over:
        begin_services(job.trainer, job.recipe.tree())
    if job.found_in(QUANTIZED) is None:
        float_stage(job)
    quantize(job)
    train(job)
    reestimate(job)
    correct(job)
    return write(job)


def float_stage(job: Job) -> None:
    """Train the float network if the recipe has a float stage, save it, and measure it."""
    recipe, found, stage = job.recipe, job.found_in(FLOAT), job.recipe.float_stage
    if stage.epochs is not None:
        path = job.folder / FLOAT_CHECKPOINT
        callbacks = [
            WatchCallback(NETWORK_PREFIX),
            job.display.training("float network"),
            checkpoints(recipe, path, job.measured, job.clock, found),
        ]
        trainer = make_trainer(recipe.trainer, job.folder, callbacks, epochs=stage.epochs)
        with job.clock.timed("float_stage"):
            if found is not None and found.over:
                found.load(job.network)
            else:
                schedule = stage.lr_schedule(recipe.lr_schedule)
                _fit(
                    job,
                    trainer,
                    lambda n: make_optimizer(n.parameters(), stage.optimizer),
                    schedule,
                    found,
                )
        with raised_together():
            if trainer.is_global_zero:
                save_network(job.network, job.folder / FLOAT_NETWORK)
    job.measure("float")


def quantize(job: Job) -> None:
    """Insert quantizers; calibrate their scales, or load them from the checkpoint."""
    recipe, found = job.recipe, job.found_in(QUANTIZED)
    qs.prepare(job.network, recipe.scheme.scheme(), job.example)
    job.measuring.show_epoch((recipe.float_stage.epochs or 1) - 1)
    if found is None:
        count = recipe.calibration.batches
        qs.calibrate(job.network, job.measuring.training("calibration", count), count)
    else:
        found.load(job.network)
    qs.compile(job.network, recipe.compile)
    if found is None:
        job.measure("rounded")


def train(job: Job) -> None:
    """Train the quantized network, and report its oscillation."""
    recipe, found, measured = job.recipe, job.found_in(QUANTIZED), job.measured
    if recipe.recording.batchnorm_every is not None:
        count = recipe.recording.batchnorm_batches
        on_host = replace(job.measuring, device="cpu")
        job.recording.batches = list(on_host.training("recording", count))
    seed_all(recipe.seed)
    with job.clock.timed("training"):
        if found is not None and found.over:
            tracker, busy_s = found.tracker(job.network), found.busy_s
            measured.cures = found.did()
            measured.train_loss, measured.steps = found.train_loss, found.step
            job.measuring.show_epoch(found.epoch)
        else:
            if recipe.cure.snap == "learned":
                job.tracking.at_end = partial(_learn_codes, job)
            optimizers = recipe.weights_optimizer, recipe.scales_optimizer
            busy_s = _fit(
                job,
                job.trainer,
                lambda n: joined_optimizer(n, *optimizers),
                recipe.lr_schedule,
                found,
            )
            tracker = job.tracking.tracker
            measured.cures = job.tracking.report()
            measured.train_loss = job.trainer.callback_metrics["epoch_loss"].item()
            measured.steps = job.trainer.global_step
    measured.momentum = tracker.momentum
    measured.seconds_per_step = busy_s / max(1, measured.steps)
    measured.layers = [
        replace(layer, name=layer.name.removeprefix(NETWORK_PREFIX)) for layer in tracker.report()
    ]
    measured.diagnosis.see_layers(tracker, NETWORK_PREFIX)
    job.measure("trained")


def reestimate(job: Job) -> None:
    """Re-estimate the batch-norm statistics; measure the network before and after."""
    measured, count = job.measured, job.recipe.batchnorm.batches
    _diagnose(job, RUNNING, count or BATCHES, "trained")
    if count is None or not has_statistics(job.network):
        return
    batches = job.measuring.training("batch norm", count)
    measured.kl = qs.reestimate_batchnorm(job.network, batches, count)
    measured.diagnosis.norms = diagnose_batchnorm(job.network, measured.kl, job.example)
    job.measure("reestimated")
    _diagnose(job, REESTIMATED, count, "reestimated")


def correct(job: Job) -> None:
    """Correct the outputs of the quantized layers, if the recipe says so."""
    cure = job.recipe.cure
    if (count := cure.correction_batches) is None:
        return
    batches = job.measuring.training("quantization correction", count)
    with job.clock.timed("correction"):
        done = correct_quantization(
            job.network, batches, cross_entropy, count=count, lr=cure.correction_lr
        )
    job.measured.cures.append({"cure": "quantization correction", **done})
    job.measure("corrected")


def write(job: Job) -> dict[str, Any]:
    """Save the network, the diagnosis and the summary; return the summary."""
    job.measured.seconds = job.clock.seconds()
    summary = summarize(job.recipe, job.network, job.measured)
    if is_first_process():
        save_network(job.network, job.folder / NETWORK)
        write_json(job.folder / DIAGNOSIS, job.measured.diagnosis.file().tree())
        shutil.rmtree((job.folder / FLOAT_CHECKPOINT).parent, ignore_errors=True)
        write_json(job.folder / SUMMARY, summary)
    return summary


def _fit(
    job: Job,
    trainer: Trainer,
    make_optimizer: Callable[[nn.Module], Optimizer],
    schedule: LrScheduleConfig,
    found: Found | None,
) -> float:
    """Train the network, from a checkpoint if there is one; return seconds in batches."""
    module = Classifier(job.network, make_optimizer, schedule)
    if found is None:
        fit(trainer, module, job.data)
    else:
        with found.resumed_by(module):
            fit(trainer, module, job.data, found.path)
    return module.busy_s


def _learn_codes(job: Job) -> dict[str, Any]:
    """Learn the codes of the weights that still oscillate, freeze them, and report."""
    cure, display = job.recipe.cure, job.display
    epoch = list(job.measuring.training("batches to learn codes", cure.snap_batches))
    statistics = (
        population_statistics(job.network, epoch, len(epoch))
        if has_statistics(job.network)
        else nullcontext()
    )
    with statistics:
        done = learn_codes(
            job.network,
            job.tracking.tracker,
            display.track(cycle(epoch), "learning codes", cure.snap_steps),
            cross_entropy,
            steps=cure.snap_steps,
            max_bits=cure.max_bits,
        )
    return {"cure": "learned codes", **done}


def _diagnose(job: Job, statistics: str, count: int, state: str) -> None:
    diagnosis = job.measured.diagnosis
    diagnosis.train_loss[statistics] = job.measuring.training_loss(job.network, statistics, count)
    diagnosis.top1_percent[statistics] = job.measured.top1_percent[state]
