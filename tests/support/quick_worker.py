"""Stands for a worker of a sweep: takes a moment, and its results follow from the recipe.

The accuracy is 90 at a threshold of 0.01, and falls by the square of the decades from there, by a
tenth for each hundred of the learning rate, and by a hundredth of a point for each seed above 100.
Each start is a line in `started`, beside the folder
of the study or sweep. It has a checkpoint after each epoch, and continues after it.
"""

import json
import math
import sys
import time
from pathlib import Path

import yaml

QUICK = (sys.executable, __file__)
"""The command of this worker, for `quiesce.sweeps.processes.WORKER`."""

EPOCHS = 4
SLOW = (0.0001, 0.0002)
"""Thresholds whose runs must be stopped, because they take minutes."""


def main() -> int:
    task = json.loads(sys.argv[1])
    folder = Path(task["folder"])
    recipe = yaml.safe_load(Path(task["recipe"]).read_text())
    if task["only_float"]:
        folder.mkdir(parents=True)
        (folder / "float.safetensors").touch()
        return 0
    with (folder.parents[1] / "started").open("a") as started:
        started.write(f"{folder.parent.name}/{folder.name}\n")
    folder.mkdir(exist_ok=True)
    end, seed = recipe["cure"]["threshold"]["end"], recipe["seed"]
    top1 = 90 - (math.log10(end) + 2) ** 2 - recipe["weights_optimizer"]["lr"] / 10
    top1 -= (seed - 100) / 100
    if recipe["tracker"]["momentum"] > 0.5:
        sys.stderr.write("the momentum is too large\n")
        return 2
    checkpoint, lines = folder / "checkpoints" / "last.ckpt", ["step,epoch,top1_percent"]
    checkpoint.parent.mkdir(exist_ok=True)
    begin = 0
    if checkpoint.exists():
        begin, *lines = json.loads(checkpoint.read_text())
        sys.stdout.write(f"resuming from epoch {begin}\n")
    for epoch in range(begin, EPOCHS):
        lines.append(f"{epoch},{epoch},{top1 - EPOCHS + 1 + epoch}")
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        beside = checkpoint.with_name(".beside")
        beside.write_text(json.dumps([epoch + 1, *lines]))
        beside.replace(checkpoint)
        time.sleep(30 if end in SLOW else recipe["trainer"]["max_epochs"] / 1000)
    shares = {"weights": 10, "oscillating": end, "frozen": 0.5}
    summary = {
        "version": 1,
        "name": recipe["name"],
        "seed": seed,
        "top1_percent": {"trained": top1 - 1, "reestimated": top1},
        "train_loss": 1.0,
        "size_bytes": 1000 * recipe["scheme"]["weight_bits"],
        "oscillation": {"low_bit": shares, "low_bit_depthwise": shares},
    }
    (folder / "recipe.yaml").write_text(Path(task["recipe"]).read_text())
    (folder / "summary.json").write_text(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
