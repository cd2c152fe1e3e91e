"""Studies whose runs take a moment, and the same in processes that can be killed."""

import os
import subprocess
import sys

import pytest

from quiesce.sweeps import processes
from quiesce.sweeps.engines import engine
from support.quick_worker import QUICK

RECIPE = "mnist_freeze_w3a3"
SEARCH = {"cure.threshold.end": "log:0.0001:0.1"}
COMMAND = f"""
import sys
from quiesce.cli import main
from quiesce.sweeps import processes
from quiesce.sweeps.engines import engine
processes.WORKER, processes.LOOK_S, engine.TICK_S = {QUICK!r}, 0.02, 0.02
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def quick(monkeypatch):
    """Runs are made by `support.quick_worker`."""
    monkeypatch.setattr(processes, "WORKER", QUICK)
    monkeypatch.setattr(processes, "LOOK_S", 0.02)
    monkeypatch.setattr(engine, "TICK_S", 0.02)


@pytest.fixture
def command():
    """Starts the command `quiesce` in a process of its own, with such runs."""
    started = []

    def start(*argv):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def started_runs(folder):
    """The runs of a study in the order of their starts."""
    lines = (folder.parent / "started").read_text().splitlines()
    return [line.partition("/")[2] for line in lines if line.startswith(f"{folder.name}/")]
