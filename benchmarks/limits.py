"""How a study grows with its tries, and how large a run is; writes results/limits.json.

- tries: seconds to ask Optuna's TPE for three values and to tell it a result, in a study on SQLite
  that already has so many tries.
- run: bytes of the folder of a run of MobileNetV2 and of its checkpoint, after two steps.

Usage: python benchmarks/limits.py
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import optuna
from measuring import save

from quiesce.recipes.reading import read_recipe
from quiesce.training.run import run

TRIES = (100, 1_000, 10_000)
ASKED = 50
FIELDS = {
    "threshold": optuna.distributions.FloatDistribution(1e-3, 0.1, log=True),
    "lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
    "bits": optuna.distributions.IntDistribution(2, 4),
}
TINY = [
    *("--data.name=made_up", "--data.image_size=32", "--data.batch_size=8", "--data.workers=0"),
    *("--data.train_images=32", "--data.test_images=16", "--model.weights=random"),
    *("--compile=off", "--trainer.max_steps=2", "--trainer.accelerator=cpu"),
]


def seconds_a_try(tries: int, folder: Path) -> float:
    """Return the median seconds of asking and telling after `tries` tries."""
    sampler = optuna.samplers.TPESampler(seed=0)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(tries):
        trial = drawn.ask(FIELDS)
        drawn.tell(trial, trial.params["threshold"] * trial.params["lr"])
    storage = f"sqlite:///{folder / f'{tries}.db'}"
    study = optuna.create_study(storage=storage, sampler=sampler, study_name="one")
    study.add_trials(drawn.trials)
    seconds = []
    for _ in range(ASKED):
        started_s = time.perf_counter()
        trial = study.ask(FIELDS)
        study.tell(trial, trial.params["lr"])
        seconds.append(time.perf_counter() - started_s)
    return median(seconds)


def run_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of a run folder and of a checkpoint in it."""
    run(read_recipe("mobilenetv2_freeze_w3a3", [*TINY, f"--run={folder / 'run'}"]))
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
    return {
        "folder": sum(path.stat().st_size for path in files),
        "checkpoint": checkpoint.stat().st_size,
    }


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as made:
        seconds = {str(tries): seconds_a_try(tries, Path(made)) for tries in TRIES}
        print(seconds, flush=True)
        save("limits", {"seconds_a_try": seconds, "run_bytes": run_bytes(Path(made))})
