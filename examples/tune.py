"""Search the threshold of freezing with Optuna: three tries of a recipe, on small made-up images.

`quiesce.tune` returns the study and writes the best recipe. Needs the extra tune; takes one
or two minutes. Run it with `python examples/tune.py`.
"""

import tempfile
from pathlib import Path

import quiesce

folder = Path(tempfile.mkdtemp()) / "study"
study = quiesce.tune(
    "mnist_freeze_w3a3",
    {"cure.threshold.end": "log:0.005:0.02"},
    metrics=["train_loss"],
    tries=3,
    seeds=[100],  # report final numbers on other seeds
    flags=[  # leave these out to train on the digits
        "--data.name=made_up",
        "--data.image_size=16",
        "--data.batch_size=16",
        "--data.train_images=256",
        "--data.mean=null",
        "--data.std=null",
        "--float_stage.epochs=null",
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
    ],
    folder=folder,
    tell=print,
)
print(f"best of {len(study.trials)} tries: {study.best_params}, loss {study.best_value:.3f}")
print(
    f"next, on seeds that the search has not seen: quiesce sweep {folder / 'best.yaml'} --seeds 3"
)
