"""Run folders written by hand: what `quiesce train` leaves, without training."""

import json

import pytest
import yaml

SUMMARY = {
    "version": 1,
    "top1_percent": {"trained": 90.0, "reestimated": 91.0},
    "train_loss": 0.5,
    "oscillation": {
        "low_bit": {"oscillating": 0.02, "frozen": 0.0},
        "low_bit_depthwise": {"oscillating": 0.03},
    },
}


@pytest.fixture
def make_run(tmp_path):
    """Makes the folder of a finished run, or, with `finished=False`, of one cut off."""

    def make(folder, *, name="lsq", seed=0, top1=90.0, finished=True, **recipe):
        path = tmp_path / folder
        path.mkdir(parents=True)
        tree = {"version": 1, "name": name, "seed": seed, "data": {"name": "mnist5k"}, **recipe}
        (path / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        if finished:
            top1_percent = {**SUMMARY["top1_percent"], "trained": top1}
            summary = {**SUMMARY, "name": name, "seed": seed, "top1_percent": top1_percent}
            (path / "summary.json").write_text(json.dumps(summary))
        return path

    return make
