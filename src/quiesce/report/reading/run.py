"""One run folder, as far as it goes: any file may be missing, and one of `record` has no recipe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from quiesce.comparison.same_data import data_of
from quiesce.files.untrusted.typed_values import count, mapping, maybe, number, text
from quiesce.report.reading.facts import facts_of
from quiesce.report.reading.files import read_json, read_recipe, reading
from quiesce.report.reading.layers import (
    batchnorms_of,
    layers_of,
    planned_bits,
    share,
    summarized_batchnorms,
    summarized_layers,
)
from quiesce.report.reading.series import batchnorm_curves, curves, layers_over_time
from quiesce.report.reading.weights import probe, trajectories
from quiesce.report.run_data import DEPTHWISE, Accuracy, Run, Series
from quiesce.run_folder.file_names import DIAGNOSIS, LAYERS, METRICS

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
SHIPPED = "shipped.json"
CURES = ("none", "dampen", "freeze")
CUT, NEAR = 0.005, 0.01
"""What counts as oscillating, and as near a threshold, where no file says."""


def read_run(folder: Path, title: str) -> Run:
    """Read all that `folder` holds.

    Args:
        folder: With a recipe.yaml, a summary.json, or both.
        title: What the page is to call the run.

    Raises:
        RecipeError: A file is damaged, or newer than this quiesce.
    """
    recipe = read_recipe(folder / RECIPE) or {}
    summary = read_json(folder / SUMMARY)
    diagnosis = read_json(folder / DIAGNOSIS)
    found = curves(folder / METRICS)
    over_time = layers_over_time(folder / LAYERS)
    with reading(folder / (RECIPE if summary is None else SUMMARY)):
        told = _identity(recipe, summary or {}, folder)
        recorded = not recipe and bool((diagnosis or {}).get("finished"))
        told |= _as_far_as_it_went(found) if summary is None else _headline(summary)
    with reading(folder / RECIPE):
        told["planned_bits"] = planned_bits(recipe, over_time.layers if over_time else ())
        told["momentum"] = _momentum(recipe, summary or {}, diagnosis or {})
    with reading(folder / DIAGNOSIS):
        told |= _diagnosed(diagnosis, told["top1"]) if diagnosis else {}
        if diagnosis and told["low_bits"] is None:
            told["low_bits"] = maybe(count, diagnosis.get("low_bits"))
    shipped = read_json(folder / SHIPPED)
    with reading(folder / (RECIPE if shipped is None else SHIPPED)):
        told["facts"] = facts_of(recipe, shipped, told.get("layers", ()), told["low_bits"])
    run = Run(
        folder=folder,
        title=title,
        finished=summary is not None or recorded,
        **told,
        curves=found,
        over_time=over_time,
        batchnorm_curves=batchnorm_curves(folder / "batchnorm.csv"),
        batchnorm_losses=curves(folder / "batchnorm_loss.csv"),
        trajectories=trajectories(folder / "trajectories.npz"),
        probe=probe(folder / "probe.json"),
    )
    return run if summary is not None else _from_its_layers(run)


def _identity(recipe: dict[str, Any], summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    oscillation = mapping(summary.get("oscillation", {}))
    bits = oscillation.get("low_bits", mapping(recipe.get("scheme", {})).get("weight_bits"))
    versions = mapping(summary.get("versions", {}))
    return {
        "recipe": str(summary.get("name") or recipe.get("name") or folder.name),
        "settings": _settings(recipe) if recipe else str(folder),
        "seed": maybe(count, summary.get("seed", recipe.get("seed"))),
        "cure": _cure(mapping(recipe.get("cure", {}))) if recipe else None,
        "data": _data(recipe) if recipe else None,
        "cut": number(oscillation.get("cut", CUT)),
        "near": NEAR,
        "low_bits": maybe(count, bits),
        "versions": {str(name): text(version) for name, version in versions.items()},
    }


def _momentum(
    recipe: dict[str, Any], summary: dict[str, Any], diagnosis: dict[str, Any]
) -> float | None:
    places = (
        mapping(summary.get("oscillation", {})),
        diagnosis,
        mapping(recipe.get("tracker") or {}),
    )
    known = (maybe(number, place.get("momentum")) for place in places)
    found = next((each for each in known if each is not None), None)
    if found is not None and not 0 < found < 1:
        raise ValueError(f"its momentum is {found:g}, and must be above 0 and below 1")
    return found


def _cure(section: dict[str, Any]) -> str:
    kind = text(section.get("kind", "none"))
    if kind not in CURES:
        raise ValueError(f"its cure is {kind!r:.40}, and must be one of {', '.join(CURES)}")
    return kind


def _data(recipe: dict[str, Any]) -> dict[str, object]:
    data = mapping(recipe.get("data") or {})
    maybe(text, data.get("folder"))
    return data_of({"data": data})


def _settings(recipe: dict[str, Any]) -> str:
    """All of a recipe that is no matter of seed and place."""
    same = {key: value for key, value in recipe.items() if key not in ("seed", "run")}
    model = mapping(recipe.get("model", {}))
    if (weights := maybe(text, model.get("weights"))) is not None:
        same["model"] = model | {"weights": Path(weights).name}
    return json.dumps(same, sort_keys=True, default=str)


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    top1, oscillation = summary["top1_percent"], summary["oscillation"]
    return {
        "steps": count(summary["steps"]),
        "top1_float": maybe(number, top1["float"]),
        "top1_rounded": maybe(number, top1["rounded"]),
        "top1": Accuracy(
            running=maybe(number, top1["trained"]),
            reestimated=maybe(number, top1["reestimated"]),
        ),
        "metric": maybe(number, mapping(summary.get("metric") or {}).get("final")),
        "train_loss": maybe(number, summary["train_loss"]),
        "batchnorm_loss": Accuracy(),
        "oscillating": maybe(number, oscillation["low_bit"]["oscillating"]),
        "oscillating_depthwise": maybe(number, oscillation["low_bit_depthwise"]["oscillating"]),
        "frozen": maybe(number, oscillation["low_bit"]["frozen"]),
        "layers": summarized_layers(summary),
        "batchnorms": summarized_batchnorms(summary),
    }


def _as_far_as_it_went(curves: dict[str, Series]) -> dict[str, Any]:
    """The headline of a run without a summary: the last of each column of its metrics."""

    def last(name: str) -> float | None:
        return float(curves[name].values[-1]) if name in curves else None

    return {
        "steps": max((int(each.steps[-1]) + 1 for each in curves.values()), default=0),
        "top1_float": None,
        "top1_rounded": None,
        "top1": Accuracy(running=last("top1_percent")),
        "train_loss": last("epoch_loss") if "epoch_loss" in curves else last("loss"),
        "batchnorm_loss": Accuracy(),
        "oscillating": last("oscillating"),
        "oscillating_depthwise": None,
        "frozen": last("frozen"),
    }


def _diagnosed(diagnosis: dict[str, Any], known: Accuracy) -> dict[str, Any]:
    """What a diagnosis adds to the headline; the accuracy only where training did not tell it."""
    accuracy = diagnosis.get("accuracy") or {}
    loss, top1 = (
        {kind: maybe(number, value) for kind, value in (accuracy.get(what) or {}).items()}
        for what in ("train_loss", "top1_percent")
    )
    running, reestimated = known.running, known.reestimated
    return {
        "layers": layers_of(diagnosis),
        "batchnorms": batchnorms_of(diagnosis),
        "top1": Accuracy(
            running=top1.get("running") if running is None else running,
            reestimated=top1.get("reestimated") if reestimated is None else reestimated,
        ),
        "batchnorm_loss": Accuracy(
            running=loss.get("running"), reestimated=loss.get("reestimated")
        ),
        "near": number(diagnosis.get("near", NEAR)),
        "diagnosed": True,
    }


def _from_its_layers(run: Run) -> Run:
    """Fill in shares that a run without a summary knows from its diagnosis alone."""
    low = run.low_bit_layers
    depthwise = [layer for layer in low if layer.kind == DEPTHWISE]
    shares = {
        "oscillating": share(low, "oscillating"),
        "oscillating_depthwise": share(depthwise, "oscillating"),
        "frozen": share(low, "frozen"),
    }
    return replace(run, **{name: value for name, value in shares.items() if value is not None})
