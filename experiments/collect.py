"""The numbers of a sweep in one file: `python experiments/collect.py SWEEP > results.json`.

It has the numbers of every run from its summary.json and diagnosis.json, and for each group the
mean, standard deviation, n, and difference to the baseline, as `quiesce compare` computes them.
"""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from quiesce.comparison.compare import compare
from quiesce.comparison.measures import MEASURES

folder = Path(sys.argv[1])
compared = compare([folder])


def kl_by_kind(diagnosis):
    """Return mean KL(population || running) of batch norms after each kind of layer, in nats."""
    kinds = {}
    for norm in diagnosis.get("batchnorm", []):
        kinds.setdefault(norm["kind"], []).append(norm["kl_mean"])
    return {kind: fmean(values) for kind, values in sorted(kinds.items())}


def numbers(run):
    """Return the numbers of one run."""
    found = {
        "name": run.name,
        "seed": run.seed,
        "steps": run.summary.steps,
        "top1_percent": run.summary.top1_percent,
        **{measure.key: measure.of(run) for measure in MEASURES},
        "seconds_training": run.summary.seconds.get("training"),
    }
    path = run.folder / "diagnosis.json"
    if path.exists():
        diagnosis = json.loads(path.read_text("utf-8"))
        found["train_loss_in_inference"] = diagnosis["accuracy"]["train_loss"]
        found["batchnorm_kl_by_kind"] = kl_by_kind(diagnosis)
    path = run.folder / "batchnorm_loss.csv"
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            found["batchnorm_loss"] = [
                {key: float(value) for key, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
    return found


def together(group):
    """Return means and deviations of a group, and its differences to the baseline."""
    return {
        "n": len(group.runs),
        "seeds": sorted(group.runs),
        **{
            measure.key: {
                **asdict(compared.spread(group, measure)),
                "difference": asdict(apart)
                if (apart := compared.difference(group, measure))
                else None,
            }
            for measure in compared.measures
        },
    }


runs = [run for group in compared.groups for run in group.runs.values()]
tree = {
    "sweep": folder.name,
    "baseline": compared.baseline.label if compared.baseline else None,
    "versions": runs[0].summary.versions,
    "groups": {group.label: together(group) for group in compared.groups},
    "runs": [numbers(run) for run in runs],
}
json.dump(tree, sys.stdout, indent=1)
sys.stdout.write("\n")
