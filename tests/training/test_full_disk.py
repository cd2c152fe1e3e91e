"""A disk that fills up while a run trains: a real one, of 30 MB in memory."""

import errno
import os
import shutil
import subprocess

import pytest

from quiesce.cli import main
from quiesce.recipes.reading import read_recipe
from quiesce.run_folder.checkpoint_file import SoundCheckpoints, read_checkpoint
from quiesce.training.run import run
from support.killed_runs import FLAGS, assert_same_run
from support.messages import tells

SHORT = {"float_stage.epochs": 1, "trainer.max_epochs": 2, "trainer.deterministic": "false"}


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; where the system mounts none, there is no test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here: it takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Write until nothing more goes in."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.fsync(file.fileno())


@pytest.mark.slow
# the thread of tensorboard that writes finds the disk full as well
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_run_stops_in_one_line_and_goes_on_when_there_is_space(
    disk, tmp_path, monkeypatch, capsys
):
    values = {**FLAGS, **SHORT, "trainer.loggers": "[csv,tensorboard]"}
    flags = [f"--{name}={value}" for name, value in values.items()]
    run(read_recipe("mnist_freeze_w3a3", [*flags, f"--run={tmp_path / 'whole'}"]))
    save, saved = SoundCheckpoints.save_checkpoint, []

    def save_then_fill(self, *args, **options):
        save(self, *args, **options)
        saved.append(args)
        if len(saved) == 5:
            fill(disk / "ballast")

    folder = disk / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SoundCheckpoints, "save_checkpoint", save_then_fill)
        capsys.readouterr()
        assert main(["train", "mnist_freeze_w3a3", *flags, f"--run={folder}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"quiesce: {folder}")
    assert tells(told, "No space left on device", f"quiesce train --resume {folder}")
    step = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert step > 0
    (disk / "ballast").unlink()
    assert main(["train", "--resume", str(folder)]) == 0
    for path in (tmp_path / "whole", folder):  # files with time and process in their names
        shutil.rmtree(path / "tensorboard")
    assert_same_run(tmp_path / "whole", folder)
