"""Overhead of a try of `quiesce tune` over the number of tries; writes results/tries.json.

Usage: python benchmarks/tries.py            # ten minutes

A try is chosen and told, as in a search with one worker, and its runs are left out: what is left is
the time of Optuna and of its storage. The study holds complete tries with two fields.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import optuna
from measuring import save

from quiesce.run_folder.contents import Oscillation, Shares, Summary
from quiesce.tuning.claims import Claims
from quiesce.tuning.settings import Settings, read_settings
from quiesce.tuning.storage import open_storage
from quiesce.tuning.study import Opened, open_study
from quiesce.tuning.tries import Tries

COUNTS = (10, 100, 1_000, 10_000)
ROUNDS = 5
SEARCH = {"cure.threshold.end": "log:0.001:0.1", "weights_optimizer.lr": "log:0.0001:0.1"}
CASES = {
    "sqlite": (("random", None), ("tpe", None), ("tpe", "median")),
    "journal": (("tpe", None),),
}


def settings_of(sampler: str, pruner: str | None) -> Settings:
    """Return the settings of a search without an end."""
    return read_settings(
        "mnist_freeze_w3a3",
        SEARCH,
        metrics=["post_bn"],
        tries=10**9,
        seeds=[100],
        sampler=sampler,
        pruner=pruner,
        flags=[],
    )


def fill(opened: Opened, count: int) -> None:
    """Add complete tries until there are so many."""
    study, space = opened.study(), opened.settings.space
    distributions = {name: each.distribution() for name, each in space.items()}
    have = len(study.get_trials(deepcopy=False))
    for i in range(have, count):
        low = {name: each.low for name, each in space.items()}
        fields = {name: value * (1 + i % 97) for name, value in low.items()}
        made = optuna.trial.create_trial(
            params=fields,
            distributions=distributions,
            values=[90 + i % 89 / 100],
            intermediate_values={epoch: 80.0 + epoch for epoch in range(1, 11)},
        )
        study.add_trial(made)


def one_try(tries: Tries, pruned: bool) -> float:
    """Return the seconds of choosing a try and telling its result."""
    nothing = Shares()
    oscillation = Oscillation(low_bit=nothing, low_bit_depthwise=nothing)
    accuracy = {"reestimated": 91.0}
    summary = Summary(
        name="a", seed=100, top1_percent=accuracy, train_loss=1.0, oscillation=oscillation
    )
    began_s = time.perf_counter()
    each = tries.next()
    if each is None:
        raise RuntimeError("the study has ended")
    if pruned:
        for epoch in range(1, 11):
            each.trial.report(90.0, step=epoch)
            each.trial.should_prune()
    tries.complete(each, {100: summary})
    return time.perf_counter() - began_s


def measure(kind: str, url: str, folder: Path, results: dict[str, dict[str, float]]) -> None:
    """Add the milliseconds of a try, by the number of tries in the study, of some cases."""
    (folder / "claims").mkdir(exist_ok=True)
    for count in COUNTS:
        storage = open_storage(url)
        fill(open_study("study", storage, settings_of("random", None)), count)
        for sampler, pruner in CASES[kind]:
            opened = open_study("study", storage, settings_of(sampler, pruner))
            tries = Tries(opened, "here", Claims(folder / "claims"))
            seconds = [one_try(tries, pruner is not None) for _ in range(ROUNDS + 1)]
            label = " ".join([kind, sampler, *([pruner] if pruner else [])])
            known = results.setdefault(label, {})
            known[str(count)] = 1000 * median(seconds[1:])  # the first one reads what was added
            print(label, count, round(known[str(count)], 1), flush=True)


def main() -> None:
    """Measure, print the results, and write the file."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, url in (
            ("sqlite", f"sqlite:///{name}/study.db"),
            ("journal", f"journal:{name}/j"),
        ):
            measure(kind, url, Path(name), results)
    print(save("tries", {"optuna": optuna.__version__, "milliseconds a try": results}))


if __name__ == "__main__":
    main()
