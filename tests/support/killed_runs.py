"""Training processes that are killed: by the clock, or inside a write of a checkpoint."""

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from support.network_file import read_description
from support.processes import FORKSERVER
from support.states import assert_same_state

FLAGS = {
    "data.name": "made_up",
    "data.image_size": 16,
    "data.batch_size": 4,
    "data.train_images": 20,
    "data.test_images": 8,
    "data.workers": 0,
    "data.mean": "null",
    "data.std": "null",
    "float_stage.epochs": 2,
    "float_stage.optimizer.lr": 0.02,
    "tracker.momentum": 0.1,
    "cure.threshold.start": 0.05,
    "scheme.act_estimator.kind": "stochastic_rounding",  # every forward draws random numbers
    "weights_optimizer.lr": 0.02,
    "recording.batchnorm_every": 4,
    "recording.trajectory_steps": 9,
    "batchnorm.batches": 3,
    "checkpoint.every": 3,
    "trainer.max_epochs": 5,
    "trainer.accelerator": "cpu",
    "trainer.deterministic": "true",
    "trainer.log_every_n_steps": 2,
    "trainer.loggers": "[csv]",
}
"""A run of both stages, and everything that is recorded: 10 and 25 steps of tiny images."""


def train(folder: str, flags: Sequence[str], die_in_write: int | None) -> None:
    """Begin a run, or go on with it; the whole of a training process.

    Args:
        folder: Of the run.
        flags: Of its recipe.
        die_in_write: Number of the checkpoint in whose write the process is killed, or None.
    """
    from quiesce.recipes.reading import read_recipe
    from quiesce.training.display import Display
    from quiesce.training.run import resume, run

    # as a process of the command line starts its workers: forked, they end soon after it is killed
    multiprocessing.set_start_method("fork", force=True)
    calls = 0
    write = Path.write_bytes

    def deadly(path: Path, data: Any) -> int:
        nonlocal calls
        calls += path.name.startswith(".last.ckpt.")
        if calls == die_in_write:
            write(path, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    Path.write_bytes = deadly
    torch.use_deterministic_algorithms(True)
    if (Path(folder) / "recipe.yaml").exists():
        resume(Path(folder), Display())
    else:
        run(read_recipe("mnist_freeze_w3a3", [*flags, f"--run={folder}"]))


class Killer:
    """Starts training processes, and ends them at random moments.

    Args:
        seed: Of the moments.
        flags: Of the recipe, besides `FLAGS`.
    """

    def __init__(self, seed: int, flags: Sequence[str] = ()) -> None:
        self._moments = random.Random(seed)
        self._flags = [*(f"--{name}={value}" for name, value in FLAGS.items()), *flags]

    def whole(self, folder: Path) -> float:
        """Train to the end, or go on to it; return the seconds that it took, once started."""
        process = self._start(folder, None)
        process.join()
        assert process.exitcode == 0
        return json.loads((folder / "summary.json").read_text())["seconds"]["all"]

    def kill_within(self, folder: Path, seconds: float) -> bool:
        """Kill after so many seconds at most; return whether it was not finished before."""
        process = self._start(folder, None)
        process.join(self._moments.uniform(0, seconds))
        process.kill()
        return self._ended(process)

    def kill_in_write(self, folder: Path, calls: int) -> bool:
        """Kill in one of the first `calls` writes to checkpoints; the same."""
        process = self._start(folder, self._moments.randint(1, calls))
        process.join()
        return self._ended(process)

    def _start(self, folder: Path, die_in_write: int | None) -> Any:
        if folder.exists() and not (folder / "recipe.yaml").exists():
            remove_unborn(folder)
        process = FORKSERVER.Process(target=train, args=(str(folder), self._flags, die_in_write))
        process.start()
        return process

    def _ended(self, process: Any) -> bool:
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0


def remove_unborn(folder: Path) -> None:
    """Remove a folder whose run was killed before it had written its recipe."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def assert_same_run(one: Path, two: Path) -> None:
    """Every number of two finished runs is the same, to the bit, but for times of the clock."""
    names = {str(path.relative_to(one)) for path in one.rglob("*")}
    assert names == {str(path.relative_to(two)) for path in two.rglob("*")}
    for name in ("network.safetensors", "float.safetensors"):  # headers have no fixed order
        assert_same_state(load_file(one / name), load_file(two / name))
        assert read_description(one / name) == read_description(two / name), name
    for name in (
        "diagnosis.json",
        "metrics.csv",
        "layers.csv",
        "batchnorm.csv",
        "batchnorm_loss.csv",
    ):
        assert (one / name).read_text() == (two / name).read_text(), name
    with np.load(one / "trajectories.npz") as mine, np.load(two / "trajectories.npz") as theirs:
        assert mine.files == theirs.files
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine.files)
    mine, theirs = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    for summary in (mine, theirs):
        del summary["seconds"], summary["seconds_per_step"]
    assert mine == theirs
    mine, theirs = (_last(run) for run in (one, two))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "random"):
        assert_same_state(mine[part], theirs[part])


def _last(run: Path) -> dict[str, Any]:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {**content, "random": content["quiesce"]["random"]}
