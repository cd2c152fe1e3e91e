"""Codes, sizes and times of networks in every target that is installed.

Every layer gets the codes of the network (see `quiesce.export`); `differ` counts codes that the
runtime computes otherwise, `undecided` those among them that lie on a threshold, to float32's
precision. Times are of one image on one thread, through the Python interface of the runtime.

    make test-targets   # makes the environment
    .venv-targets/bin/python benchmarks/targets.py
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, interleaved, save
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import QuiesceError
from quiesce.export.targets.catalog import TARGETS, target_named
from quiesce.models.build import ModelConfig, build_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.digits import trained_digits, unseen_digits

W4A8 = {
    "weight_bits": 4,
    "act_bits": 8,
    "first_last_bits": 7,
    "first_input_bits": 8,
    "residual": "quantized",
}
W3A3 = {**W4A8, "weight_bits": 3, "act_bits": 3, "first_last_bits": 8}
NETWORKS = {
    "mnist": (trained_digits, W4A8, 32),
    "mnist_w3a3": (trained_digits, W3A3, 32),
    "mobilenetv2_100": (None, W4A8, 2),
    "tf_efficientnet_lite0": (None, W4A8, 2),
}
"""Name to where it comes from, its scheme, and the number of images for the codes."""
ROUNDS = 20
SIZE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    known = parser.parse_args()
    torch.set_num_threads(1)
    for name in known.networks:
        network, images = make(name)
        for target in known.targets:
            made = measure(network, images, target, known.rounds)
            found = measured_before()
            found.setdefault(name, {"scheme": NETWORKS[name][1]})[target] = made
            print(name, target, made)
            save("targets", {"networks": found})


def measured_before() -> dict[str, Any]:
    """Return the results so far, which other calls of this script may have added to."""
    path = RESULTS / "targets.json"
    return json.loads(path.read_text())["networks"] if path.exists() else {}


def make(name: str) -> tuple[nn.Module, Tensor]:
    own, scheme, count = NETWORKS[name]
    if own is not None:
        return own(**scheme), unseen_digits(count)[0]
    torch.manual_seed(0)
    pretrained = name == "tf_efficientnet_lite0"
    config = ModelConfig(name=name, weights="package" if pretrained else "random")
    network = build_model(config, num_classes=1000, input_shape=(3, SIZE, SIZE)).eval()
    images = torch.randn(count, 3, SIZE, SIZE)
    qs.prepare(network, qs.Scheme(**scheme, per_channel=pretrained), images[:1])
    return qs.calibrate(network, [images]).eval(), images


def measure(network: nn.Module, images: Tensor, name: str, rounds: int) -> dict[str, Any]:
    target = target_named(name)
    if target.missing:
        return {"missing": target.missing}
    with tempfile.TemporaryDirectory() as folder:
        started_s = time.perf_counter()
        try:
            made = qs.export(
                network,
                Path(folder) / f"made{target.suffix}",
                target=name,
                example_input=images,
                allow_differences=1.0,
                compare=lambda ours, theirs: 1.0,
            )
        except QuiesceError as error:
            return {"refused": str(error)}
        seconds = time.perf_counter() - started_s
        run = target.load(made.path)
        one = {"images": images[:1].numpy()}
        run(one)
        times = interleaved({"one": lambda: run(one)}, rounds=rounds)["one"]
        found: Any = made.verification
        with torch.no_grad():
            ours = network(images).numpy()
        theirs = run({"images": images.numpy()})["logits"]
    return {
        "versions": {each.name: each.installed for each in target.packages},
        "bytes": made.size,
        "notes": list(made.notes),
        "layers": len(found.layers),
        "codes": sum(layer.codes for layer in found.layers),
        "differ": sum(layer.differ for layer in found.layers),
        "undecided": sum(layer.undecided for layer in found.layers),
        "whole": sum(layer.whole for layer in found.layers),
        "departing": {layer.made_by: layer.differ for layer in found.layers if layer.differ},
        "wrong_weights": found.wrong_weights,
        "output_error": float(np.abs(ours - theirs).max() / np.abs(ours).max()),
        "same_class": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "export_seconds": round(seconds, 1),
        "milliseconds": round(1000 * statistics.median(times), 3),
    }


if __name__ == "__main__":
    main()
