"""`quiesce tune RECIPE`: search hyper-parameters of a recipe with Optuna."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from quiesce.cli.arguments import Arguments
from quiesce.cli.engines import add_engine_flags, engine_of, slurm_fields
from quiesce.cli.sweep_table import SweepTable
from quiesce.sweeps.sweep import parse_seeds
from quiesce.tuning.folder import path_of
from quiesce.tuning.results import BEST, PARETO, best_tries, importances
from quiesce.tuning.samplers import PRUNERS, SAMPLERS
from quiesce.tuning.search import parse_searches
from quiesce.tuning.settings import REPORTED, SEEDS, read_settings
from quiesce.tuning.storage import default_storage
from quiesce.tuning.study import Opened
from quiesce.tuning.worker import work

NOTHING_FOUND = 1


def main(argv: Sequence[str]) -> int:
    """Search as `argv` says, and print the best tries."""
    known, flags = parser().parse_known_args(argv)
    slurm, flags = slurm_fields(flags)
    settings = read_settings(
        known.recipe,
        parse_searches(known.search),
        metrics=known.metric or ["post_bn"],
        tries=known.tries,
        seeds=SEEDS if known.seeds is None else parse_seeds(f"{known.seeds},"),
        sampler=known.sampler,
        pruner=known.pruner,
        flags=flags,
    )
    name = known.study or f"{settings.base.name}-tune"
    folder = path_of(known.output, name)
    engine = engine_of(known, slurm, folder)
    with SweepTable(folder, Console(stderr=True)) as progress:
        try:
            opened = work(settings, folder, name, known.storage, engine, progress.say)
        except KeyboardInterrupt as stop:
            stop.args = (f"stopped; the same command continues in {folder}",)
            raise
    return _show(opened, folder, known.storage)


def parser() -> Arguments:
    """Return the parser of `quiesce tune`."""
    made = Arguments(
        prog="quiesce tune",
        usage="%(prog)s RECIPE --search FIELD=VALUES ... [--metric M] ... [--field.name VALUE ...]",
        description="Search values of fields of a recipe with Optuna. Each try trains one run for "
        "each seed; its value is the mean over the seeds. The same command continues an "
        "interrupted search; several processes may run it at the same time. Other flags override "
        "the recipe.",
    )
    made.add_argument("recipe", metavar="RECIPE", help="a recipe: a name or a file")
    made.add_argument(
        "--search",
        metavar="FIELD=VALUES",
        action="append",
        default=[],
        help="a field and its values: LO:HI, log:LO:HI, int:LO:HI, or a,b,c; repeatable",
    )
    made.add_argument(
        "--metric",
        metavar="M",
        action="append",
        help="what is optimized: a number of `quiesce compare`, or size_bytes; :min or :max sets "
        "the direction; several make a Pareto front (default: post_bn)",
    )
    made.add_argument(
        "--tries", type=int, default=30, metavar="N", help="tries of all workers (default: 30)"
    )
    made.add_argument(
        "--seeds",
        metavar="SEEDS",
        help="seeds of each try, such as 100,101 or 100-109 "
        f"(default: {','.join(map(str, SEEDS))}); report the result on others",
    )
    made.add_argument(
        "--sampler", default="tpe", metavar="NAME", help=f"one of {', '.join(SAMPLERS)}"
    )
    made.add_argument(
        "--pruner",
        metavar="NAME",
        help=f"{' or '.join(PRUNERS)}: stop a try whose test accuracy after an epoch of the first "
        "seed is worse than that of others",
    )
    made.add_argument(
        "--storage",
        metavar="URL",
        help="where workers without a common folder meet: a database (mysql://...), journal:PATH "
        "or redis://... (default: study.db in the folder)",
    )
    made.add_argument(
        "--study", metavar="NAME", help="name in the storage (default: <name of the recipe>-tune)"
    )
    made.add_argument("-o", "--output", metavar="FOLDER", help="default: runs/<name of the study>")
    add_engine_flags(made)
    return made


def _show(opened: Opened, folder: Path, storage: str | None) -> int:
    study = opened.study()
    trials = study.get_trials(deepcopy=False)
    counts = Counter(trial.state.name.lower() for trial in trials)
    console = Console()
    best = best_tries(study)
    if best:
        console.print(_tries(opened, best))
    for metric, shares in importances(opened).items():
        told = ", ".join(f"{field} {share:.0%}" for field, share in shares.items())
        _say(console, f"importance for {metric}: {told}")
    ends = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    _say(console, f"{len(trials)} tries: {ends}")
    if not best:
        reasons = [t.user_attrs["why"] for t in trials if "why" in t.user_attrs]
        raise_or = f": {reasons[-1]}" if reasons else ""
        _say(Console(stderr=True), f"quiesce: no try is complete{raise_or}")
        return NOTHING_FOUND
    if (folder / PARETO).is_file():
        _say(console, f"picture: {folder / PARETO}")
    where = default_storage(folder) if storage is None else "URL, with the URL of --storage"
    _say(console, f"look at all tries: optuna-dashboard {where}")
    seeds = f"{REPORTED[0]}-{REPORTED[-1]}"
    _say(console, f"train the best on other seeds: quiesce sweep {folder / BEST} --seeds {seeds}")
    return 0


def _tries(opened: Opened, trials: Sequence[Any]) -> Table:
    """Return a table with a row for each try: its metrics over the seeds, and its fields."""
    settings = opened.settings
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("try", justify="right")
    for column in (*(goal.key for goal in settings.goals), *settings.space):
        made.add_column(column, justify="right", overflow="fold")
    for trial in trials:
        cells = []
        for goal, value in zip(settings.goals, trial.values, strict=True):
            seeds = list(trial.user_attrs.get(f"{goal.key} by seed", {}).values())
            spread = f" ± {goal.text(stdev(seeds))}" if len(seeds) > 1 else ""
            cells.append(goal.text(value) + spread)
        fields = [_short(trial.params[field]) for field in settings.space]
        made.add_row(str(trial.number), *cells, *fields)
    return made


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
