"""Train a recipe with two learning rates and two seeds each, and compare them with intervals.

Recipes, grids and seeds are flags of `quiesce sweep`; the same call trains later what is missing.
Needs the extra train; takes one or two minutes. Run it with `python examples/sweep.py`.
"""

import tempfile
from pathlib import Path

from quiesce.cli import main

folder = Path(tempfile.mkdtemp()) / "sweep"
SMALL = [  # every field of a recipe is a flag; leave these out to train on the digits
    "--data.name=made_up",
    "--data.image_size=16",
    "--data.batch_size=16",
    "--data.train_images=256",
    "--data.test_images=128",
    "--data.mean=null",
    "--data.std=null",
    "--float_stage.epochs=2",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
]
grid = ["--seeds", "2", "--set", "weights_optimizer.lr=0.01,0.05"]
failed = main(["sweep", "mnist_lsq_w3a3", *grid, *SMALL, "-o", str(folder)])  # ends with a table

print("\nThe same, with differences to one of them, and as a file:")
table = folder.parent / "table.csv"
main(["compare", str(folder), "--baseline", "mnist_lsq_w3a3 lr=0.01", "--csv", str(table)])
rows = table.read_text("utf-8").splitlines()
print(f"{table} has a row for each recipe and measure: {len(rows) - 1}")
