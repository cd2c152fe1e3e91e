"""`quiesce sweep RECIPE`: run a grid of recipes and seeds on this machine, on Ray or on Slurm."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from quiesce.cli.arguments import Arguments
from quiesce.cli.compare import show_comparison
from quiesce.cli.engines import SLURM, add_engine_flags, engine_of, slurm_fields
from quiesce.cli.json_output import print_json
from quiesce.cli.listing import listing
from quiesce.cli.sweep_table import SweepTable, table
from quiesce.comparison.compare import compare
from quiesce.errors import RecipeError
from quiesce.files.atomic import in_home
from quiesce.recipes.catalog import title_of
from quiesce.recipes.reading import read_recipe
from quiesce.run_folder.contents import TuneFile
from quiesce.run_folder.folder import TUNE
from quiesce.run_folder.reading import maybe_read
from quiesce.sweeps.mirror import Mirror, is_url
from quiesce.sweeps.mirrored_sweep import fetch_copy
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
from quiesce.tuning.settings import met_seeds

SOME_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Run the sweep in `argv`, and compare its runs."""
    known, flags = parser().parse_with_recipe_flags(argv)
    if known.list:
        _list()
        return 0
    if known.status is not None:
        return _show_status(known.status, as_json=known.json)
    if known.sweep is None:
        raise RecipeError("give a recipe or a sweep; `quiesce sweep --list` lists the sweeps")
    if known.at_most is not None and known.at_most < 1:
        raise RecipeError(f"--at-most must be 1 or more, got {known.at_most}")
    slurm, flags = slurm_fields(flags)
    sweep = _sweep(known.sweep, known.seeds, known.set, flags)
    runs = plan(sweep, flags)
    where = known.output or f"runs/{sweep.name}"
    if known.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    mirror = Mirror(where) if is_url(where) else None
    folder = in_home(where).absolute() if mirror is None else mirror.local
    engine = engine_of(known, slurm, folder, mirror)
    _warn_of_seeds(in_home(known.sweep).parent / TUNE, sweep.seeds)
    url = None if mirror is None else where
    with SweepTable(folder, Console(stderr=True), url) as progress:
        try:
            outcome = run_sweep(
                sweep,
                runs,
                folder,
                engine=engine,
                mirror=mirror,
                at_most=known.at_most,
                tell=progress.tell,
            )
        except KeyboardInterrupt as stop:
            jobs = "the jobs of Slurm continue; " if known.on == SLURM else ""
            stop.args = (f"stopped; {jobs}the same command continues in {url or folder}",)
            raise
    return _tell(outcome, folder, url)


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
        "--seeds", metavar="N", help="seeds 0 to N-1, or a list of seeds: 3,7 or 0-9 (default: 1)"
    )
    made.add_argument(
        "--set",
        metavar="FIELD=A,B,C",
        action="append",
        default=[],
        help="values of a field of the recipe, as YAML: cure.strength.end=0.01,0.1; repeatable",
    )
    add_engine_flags(made)
    made.add_argument(
        "--slurm.FIELD",
        metavar="VALUE",
        help="Slurm: a field of sbatch, such as --slurm.partition=gpu --slurm.time=120; repeatable",
    )
    made.add_argument(
        "--at-most", type=int, metavar="N", help="do N runs now; the same command continues later"
    )
    made.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="a folder, or a URL such as s3://bucket/study (default: runs/<name of the sweep>)",
    )
    made.add_argument("--dry-run", action="store_true", help="check all recipes and list the runs")
    made.add_argument(
        "--status", metavar="FOLDER", help="show where the sweep in FOLDER, or at a URL, stands"
    )
    made.add_trust()
    made.add_json()
    return made


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


def _warn_of_seeds(tune: Path, seeds: Sequence[int]) -> None:
    """Warn if a recipe of a study is swept on seeds that the study has chosen it on."""
    study = maybe_read(tune, TuneFile)
    if study is not None and (warning := met_seeds(study.seeds, seeds)):
        print(f"warning: {warning}", file=sys.stderr)


def _list() -> None:
    print(listing({name: title_of(SHIPPED / f"{name}.yaml") for name in shipped_sweeps()}))
    print("\nquiesce sweep NAME runs one; quiesce sweep NAME --dry-run lists its runs.")


def _show_status(folder: str, *, as_json: bool) -> int:
    status = read_status(fetch_copy(folder) if is_url(folder) else in_home(folder))
    if as_json:
        print_json(status.tree())
    else:
        Console().print(table(status))
    return 0


def _tell(outcome: Outcome, folder: Path, url: str | None) -> int:
    if outcome.finished:
        show_comparison(compare([folder], mixed_data=True))
    print(f"\n{outcome.finished} of {outcome.total} runs are finished in {url or folder}")
    for name, why in outcome.failed.items():
        print(f"quiesce: {name} failed: {why}", file=sys.stderr)
    return SOME_FAILED if outcome.failed else 0
