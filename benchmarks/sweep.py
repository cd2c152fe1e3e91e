"""Overhead of a sweep, with runs that do nothing; writes results/sweep.json.

Usage: python benchmarks/sweep.py            # two minutes

A run is the command `true`: what is left is the time of the engine, of the process that it starts,
and of the files that say where the run stands. The runs of Ray are on this machine.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
from measuring import save
from rich.console import Console

from quiesce.cli.sweep_table import ROWS, table
from quiesce.run_folder.folder import METRICS, SWEEP, write_json
from quiesce.sweeps import processes
from quiesce.sweeps.engines.engine import Engine
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.engines.ray_engine import RayEngine, Resources
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import run_sweep, tasks_of
from quiesce.sweeps.status import StatusReader
from quiesce.sweeps.sweep import Sweep
from quiesce.sweeps.sweep_folder import SweepFolder
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import TaskState

COUNTS = (100, 1_000)
LOOKED_AT = (100, 1_000, 10_000)
NOTHING = (shutil.which("true") or "true",)
FLAGS = ["--float_stage.epochs=null"]


def do_nothing() -> None:
    """Let the workers of Ray do nothing."""
    processes.WORKER = NOTHING


def timed(act: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


class Noting:
    """An engine that runs nothing, to time what comes before and after."""

    def run(self, tasks: Any, tell: Any, more: Any = None) -> None:
        """Do nothing."""


def whole_sweep(count: int, folder: Path) -> dict[str, float]:
    """Return the milliseconds a run of each part of a sweep."""
    sweep = Sweep(name="s", recipe="mnist_lsq_w3a3", seeds=tuple(range(count)))
    runs = plan(sweep, FLAGS)
    parts = {"plan": timed(lambda: plan(sweep, FLAGS))}
    for what in ("open a new folder", "open it again"):
        parts[what] = timed(lambda: run_sweep(sweep, runs, folder, engine=Noting()))
    tasks = tasks_of(SweepFolder(folder), runs)
    engines: dict[str, Engine] = {
        "here, --jobs 1": LocalEngine(1),
        "here, --jobs 2": LocalEngine(2),
        "ray": RayEngine("ray", folder, Resources(cpus=1)),
    }
    for name, engine in engines.items():
        parts[name] = timed(lambda engine=engine: run(engine, tasks))
    return {name: 1000 * seconds / count for name, seconds in parts.items()}


def run(engine: Engine, tasks: list[Task]) -> None:
    """Run tasks; each must succeed."""
    for task in tasks:
        task.forget()
    ended: list[str] = []
    engine.run(tasks, lambda _, why: ended.append(why))
    if ended != [""] * len(tasks):
        raise RuntimeError(f"{len(ended)} of {len(tasks)} tasks ended: {set(ended)}")


def looks(count: int, folder: Path) -> dict[str, float]:
    """Return the milliseconds of a look at a sweep: all runs but ten are done, two run."""
    runs = [{"folder": f"run-{i}", "fields": {}, "seed": i} for i in range(count)]
    (folder / "logs").mkdir(parents=True)
    write_json(folder / SWEEP, {"version": 1, "runs": runs})
    for i in range(count - 8):
        path = folder / f"run-{i}" / METRICS
        path.parent.mkdir()
        path.write_text("step,epoch,top1_percent\n" + "".join(f"{e},{e},50\n" for e in range(20)))
        state = TaskState(state="done" if i < count - 10 else "running", began_s=time.time() - 9)
        (folder / "logs" / f"run-{i}.json").write_bytes(msgspec.json.encode(state))
    reader, screen = StatusReader(folder), Console(file=StringIO(), width=120)
    first = timed(reader.read)
    return {
        "first": 1000 * first,
        "next": 1000 * min(timed(reader.read) for _ in range(5)),
        "table": 1000
        * min(timed(lambda: screen.print(table(reader.read(), rows=ROWS))) for _ in range(5)),
    }


def main() -> None:
    """Measure, print the results, and write the file."""
    import ray

    do_nothing()
    ray.init(
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": do_nothing},
    )
    sweeps, statuses = {}, {}
    for counts, act, results in ((COUNTS, whole_sweep, sweeps), (LOOKED_AT, looks, statuses)):
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                results[str(count)] = act(count, Path(folder) / "sweep")
            print(count, {name: round(ms, 2) for name, ms in results[str(count)].items()})
    print(save("sweep", {"milliseconds a run": sweeps, "milliseconds of a look": statuses}))


if __name__ == "__main__":
    main()
