"""`quiesce sweep RECIPE`: run a grid of recipes and seeds on this machine, on Ray or on Slurm."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from quiesce.cli.arguments import Arguments
from quiesce.cli.compare import show_comparison
from quiesce.cli.json_output import print_json
from quiesce.cli.listing import listing
from quiesce.cli.sweep_table import SweepTable, table
from quiesce.comparison.compare import compare
from quiesce.errors import RecipeError
from quiesce.files.untrusted.yaml_and_json import parse_yaml
from quiesce.recipes.catalog import title_of
from quiesce.recipes.reading import read_recipe
from quiesce.sweeps.engines.engine import Engine
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.engines.ray_engine import RayEngine, Resources
from quiesce.sweeps.engines.slurm_engine import SlurmEngine
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import Outcome, run_sweep
from quiesce.sweeps.status import read_status
from quiesce.sweeps.sweep import (
    SHIPPED,
    Sweep,
    find_sweep,
    parse_seeds,
    parse_settings,
    read_sweep,
    shipped_sweeps,
)

SOME_FAILED = 1
HERE, SLURM = "here", "slurm"
SLURM_FIELD = "--slurm."
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(argv: Sequence[str]) -> int:
    """Run the sweep in `argv`, and compare its runs."""
    known, flags = parser().parse_known_args(argv)
    if known.list:
        _list()
        return 0
    if known.status is not None:
        return _show_status(known.status.expanduser(), as_json=known.json)
    if known.sweep is None:
        raise RecipeError("give a recipe or a sweep; `quiesce sweep --list` lists the sweeps")
    if known.jobs < 1 or (known.at_most is not None and known.at_most < 1):
        raise RecipeError("--jobs and --at-most must be 1 or more")
    slurm, flags = _slurm_fields(flags)
    sweep = _sweep(known.sweep, known.seeds, known.set, flags)
    runs = plan(sweep, flags)
    folder = (known.output or Path("runs", sweep.name)).expanduser().absolute()
    if known.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    engine = _engine(known, slurm, folder)
    with SweepTable(folder, Console(stderr=True)) as progress:
        try:
            outcome = run_sweep(
                sweep, runs, folder, engine=engine, at_most=known.at_most, tell=progress.tell
            )
        except KeyboardInterrupt as stop:
            jobs = "the jobs of Slurm continue; " if known.on == SLURM else ""
            stop.args = (f"stopped; {jobs}the same command continues in {folder}",)
            raise
    return _tell(outcome, folder)


def parser() -> Arguments:
    """Return the parser of `quiesce sweep`."""
    made = Arguments(
        prog="quiesce sweep",
        usage="%(prog)s RECIPE [--seeds N] [--set field=a,b,c] ... [--field.name VALUE ...]",
        description="Train every combination of values of some fields, with every seed. Runs that "
        "are finished in the folder are skipped, and interrupted runs continue. Other flags "
        "override the recipe. At the end, print the table of `quiesce compare`.",
    )
    made.add_argument(
        "sweep", metavar="RECIPE", nargs="?", help="a recipe or a sweep: a name or a file"
    )
    made.add_argument("--list", action="store_true", help="list the sweeps that come with quiesce")
    made.add_argument(
        "--seeds", metavar="N", help="seeds 0 to N-1, or a list of seeds: 3,7 (default: 1)"
    )
    made.add_argument(
        "--set",
        metavar="FIELD=A,B,C",
        action="append",
        default=[],
        help="values of a field of the recipe, as YAML: cure.strength.end=0.01,0.1; repeatable",
    )
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time on this machine"
    )
    made.add_argument(
        "--on",
        default=HERE,
        metavar="ENGINE",
        help="where the runs are trained: here (default), ray (starts Ray on this machine), "
        "ray://HOST:PORT or auto (a Ray cluster), slurm",
    )
    made.add_argument("--cpus", type=float, default=1, metavar="N", help="Ray: cores of a run")
    made.add_argument(
        "--gpus", type=float, default=0, metavar="N", help="Ray: devices of a run, such as 0.5"
    )
    made.add_argument("--memory", default="0", metavar="SIZE", help="Ray: memory of a run: 8G")
    made.add_argument(
        "--slurm.FIELD",
        metavar="VALUE",
        help="Slurm: a field of sbatch, such as --slurm.partition=gpu --slurm.time=120; repeatable",
    )
    made.add_argument(
        "--at-most", type=int, metavar="N", help="do N runs now; the same command continues later"
    )
    made.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="default: runs/<name of the sweep>"
    )
    made.add_argument("--dry-run", action="store_true", help="check all recipes and list the runs")
    made.add_argument(
        "--status", type=Path, metavar="FOLDER", help="show where the sweep in FOLDER stands"
    )
    made.add_json()
    return made


def _engine(known: Namespace, slurm: dict[str, Any], folder: Path) -> Engine:
    """Return the engine selected by the flags."""
    if slurm and known.on != SLURM:
        raise RecipeError(f"--slurm.{next(iter(slurm))} needs --on slurm")
    if known.on == HERE:
        return LocalEngine(known.jobs)
    if known.jobs != 1:
        raise RecipeError(f"--jobs is for this machine; --on {known.on} places the runs itself")
    if known.on == SLURM:
        return SlurmEngine(folder, slurm)
    if known.on not in ("ray", "auto") and "://" not in known.on:
        raise RecipeError(f"--on {known.on}: must be here, ray, ray://HOST:PORT, auto or slurm")
    if known.cpus < 0 or known.gpus < 0:
        raise RecipeError("--cpus and --gpus must be 0 or more")
    resources = Resources(cpus=known.cpus, gpus=known.gpus, memory=_bytes(known.memory))
    return RayEngine(known.on, folder, resources)


def _bytes(text: str) -> int:
    unit = text.upper().rstrip("IB").lstrip("0123456789.")
    try:
        return int(float(text.upper().rstrip("IB").removesuffix(unit)) * UNITS[unit])
    except (ValueError, KeyError) as error:
        raise RecipeError(f"--memory must be a size such as 800M or 8G, got {text!r}") from error


def _slurm_fields(flags: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Extract the fields of sbatch from the flags: --slurm.time=120 or --slurm.time 120."""
    fields, others, left = {}, [], list(flags)
    while left:
        flag = left.pop(0)
        if not flag.startswith(SLURM_FIELD):
            others.append(flag)
            continue
        name, equals, value = flag.removeprefix(SLURM_FIELD).partition("=")
        if not equals:
            if not left:
                raise RecipeError(f"{flag} needs a value")
            value = left.pop(0)
        try:
            fields[name.replace("-", "_")] = parse_yaml(value)
        except ValueError as error:
            raise RecipeError(f"{flag}: not valid YAML: {value}") from error
    return fields, others


def _sweep(name: str, seeds: str | None, settings: list[str], flags: list[str]) -> Sweep:
    if path := find_sweep(name):
        sweep = read_sweep(path)
    else:
        sweep = Sweep(name=f"{read_recipe(name, flags).name}-sweep", recipe=name)
    try:
        if seeds is not None:
            sweep = replace(sweep, seeds=parse_seeds(seeds))
        return replace(sweep, grid={**sweep.grid, **parse_settings(settings)})
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _list() -> None:
    print(listing({name: title_of(SHIPPED / f"{name}.yaml") for name in shipped_sweeps()}))
    print("\nquiesce sweep NAME runs one; quiesce sweep NAME --dry-run lists its runs.")


def _show_status(folder: Path, *, as_json: bool) -> int:
    status = read_status(folder)
    if as_json:
        print_json(status.tree())
    else:
        Console().print(table(status))
    return 0


def _tell(outcome: Outcome, folder: Path) -> int:
    if outcome.finished:
        show_comparison(compare([folder], mixed_data=True))
    print(f"\n{outcome.finished} of {outcome.total} runs are finished in {folder}")
    for name, why in outcome.failed.items():
        print(f"quiesce: {name} failed: {why}", file=sys.stderr)
    return SOME_FAILED if outcome.failed else 0
