"""Reads one run folder for the page. Any file may be missing; `record` writes no recipe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from quiesce.comparison.same_data import data_of
from quiesce.files.untrusted.typed_trees import typed
from quiesce.report.reading.facts import facts_of
from quiesce.report.reading.layers import share, summarized_batchnorms, summarized_layers
from quiesce.report.reading.series import batchnorm_curves, curves, layers_over_time
from quiesce.report.reading.weights import trajectories
from quiesce.report.run_data import DEPTHWISE, Accuracy, Run, Series
from quiesce.run_folder.contents import (
    DiagnosisFile,
    ProbeFile,
    ShippedFile,
    SteeredShare,
    Summary,
)
from quiesce.run_folder.folder import (
    BATCHNORM,
    BATCHNORM_LOSS,
    DIAGNOSIS,
    LAYERS,
    METRICS,
    PROBE,
    SHIPPED_NUMBERS,
    SUMMARY,
    TRAJECTORIES,
)
from quiesce.run_folder.reading import RunFiles, maybe_read, read_run, reading


def page_run(folder: Path, title: str) -> Run:
    """Read everything that the page shows of a run; raise a RecipeError for a damaged file."""
    files = read_run(folder)
    diagnosis = maybe_read(folder / DIAGNOSIS, DiagnosisFile)
    found = curves(folder / METRICS)
    over_time = layers_over_time(folder / LAYERS)
    fields = _identity(files)
    fields |= _headline(files.summary) if files.summary else _last_values(found)
    with reading(folder / SUMMARY):
        fields["target"] = _target(files.summary)
    fields |= _diagnosed(diagnosis, fields["top1"]) if diagnosis else {}
    if diagnosis:
        given = {"low_bits": diagnosis.low_bits, "network": diagnosis.network}
        given["top1_float"] = diagnosis.float_top1_percent
        fields |= {name: value for name, value in given.items() if fields.get(name) is None}
    shipped = maybe_read(folder / SHIPPED_NUMBERS, ShippedFile)
    facts = facts_of(files.recipe, shipped, fields.get("layers", ()), fields["low_bits"])
    probe = maybe_read(folder / PROBE, ProbeFile)
    recorded = diagnosis is not None and diagnosis.finished and not files.tree
    run = Run(
        folder=folder,
        title=title,
        finished=files.summary is not None or recorded,
        momentum=_momentum(files, diagnosis),
        facts=facts,
        shipped=shipped,
        **fields,
        curves=found,
        over_time=over_time,
        batchnorm_curves=batchnorm_curves(folder / BATCHNORM),
        batchnorm_losses=curves(folder / BATCHNORM_LOSS),
        trajectories=trajectories(folder / TRAJECTORIES),
        probe=probe if probe and probe.before else None,
    )
    return run if files.summary else _from_its_layers(run)


def _target(summary: Summary | None) -> SteeredShare | None:
    cures = summary.cures if summary else ()
    return next((typed(did, SteeredShare) for did in cures if "target" in did), None)


def _momentum(files: RunFiles, diagnosis: DiagnosisFile | None) -> float | None:
    known = (
        files.summary and files.summary.oscillation.momentum,
        diagnosis and diagnosis.momentum,
        files.recipe.tracker.momentum,
    )
    return next((each for each in known if each is not None), None)


def _identity(files: RunFiles) -> dict[str, Any]:
    recipe, oscillation = files.recipe, files.summary and files.summary.oscillation
    low_bits = oscillation.low_bits if oscillation else None
    return {
        "recipe": files.name,
        "settings": _settings(files) if files.tree else str(files.folder),
        "seed": files.seed,
        "cure": recipe.cure.kind if files.tree else None,
        "network": recipe.model.name,
        "scheme": recipe.scheme if files.tree else None,
        "data": data_of(recipe.data) if files.tree else None,
        "low_bits": recipe.scheme.weight_bits if low_bits is None else low_bits,
        "versions": files.summary.versions if files.summary else {},
    } | ({"cut": oscillation.cut} if oscillation else {})


def _settings(files: RunFiles) -> str:
    """Return the recipe without its seed and its paths, as text."""
    same = {key: value for key, value in files.tree.items() if key not in ("seed", "run")}
    if (weights := files.recipe.model.weights) is not None:
        same["model"] = files.tree["model"] | {"weights": Path(weights).name}
    return json.dumps(same, sort_keys=True, default=str)


def _headline(summary: Summary) -> dict[str, Any]:
    top1, oscillation = summary.top1_percent, summary.oscillation
    return {
        "steps": summary.steps,
        "top1_float": top1.get("float"),
        "top1_rounded": top1.get("rounded"),
        "top1": Accuracy(running=top1.get("trained"), reestimated=top1.get("reestimated")),
        "metric": summary.metric.final if summary.metric else None,
        "train_loss": summary.train_loss,
        "oscillating": oscillation.low_bit.oscillating,
        "oscillating_depthwise": oscillation.low_bit_depthwise.oscillating,
        "frozen": oscillation.low_bit.frozen,
        "layers": summarized_layers(summary),
        "batchnorms": summarized_batchnorms(summary),
    }


def _last_values(curves: dict[str, Series]) -> dict[str, Any]:
    """Return the headline of a run without a summary: the last values of its metrics."""

    def last(name: str) -> float | None:
        return float(curves[name].values[-1]) if name in curves else None

    return {
        "steps": max((int(each.steps[-1]) + 1 for each in curves.values()), default=0),
        "top1": Accuracy(running=last("top1_percent")),
        "train_loss": last("epoch_loss") if "epoch_loss" in curves else last("loss"),
        "oscillating": last("oscillating"),
        "frozen": last("frozen"),
    }


def _diagnosed(diagnosis: DiagnosisFile, known: Accuracy) -> dict[str, Any]:
    """Return the data of a diagnosis; its accuracy counts only if training did not measure one."""
    top1, loss = diagnosis.accuracy.top1_percent, diagnosis.accuracy.train_loss
    running, reestimated = known.running, known.reestimated
    return {
        "layers": diagnosis.layers,
        "batchnorms": diagnosis.batchnorm,
        "top1": Accuracy(
            running=top1.get("running") if running is None else running,
            reestimated=top1.get("reestimated") if reestimated is None else reestimated,
        ),
        "batchnorm_loss": Accuracy(
            running=loss.get("running"), reestimated=loss.get("reestimated")
        ),
        "near": diagnosis.near,
        "diagnosed": True,
    }


def _from_its_layers(run: Run) -> Run:
    """Compute the shares that a run without a summary has only in its diagnosis."""
    low = run.low_bit_layers
    depthwise = [layer for layer in low if layer.kind == DEPTHWISE]
    shares = {
        "oscillating": share(low, "oscillating"),
        "oscillating_depthwise": share(depthwise, "oscillating"),
        "frozen": share(low, "frozen"),
    }
    return replace(run, **{name: value for name, value in shares.items() if value is not None})
