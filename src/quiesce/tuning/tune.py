"""`quiesce.tune`: hyper-parameters of a recipe, found by Optuna.

Only its call imports what it needs, because `import quiesce` imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiesce.extras import require

if TYPE_CHECKING:
    from optuna import Study

    from quiesce.sweeps.engines.engine import Engine


def tune(
    recipe: str,
    search: Mapping[str, str | Sequence[Any]],
    *,
    metrics: Sequence[str] = ("post_bn",),
    tries: int = 30,
    seeds: Sequence[int] = (100, 101, 102),
    flags: Sequence[str] = (),
    folder: str | Path | None = None,
    storage: str | None = None,
    name: str | None = None,
    sampler: str = "tpe",
    pruner: str | None = None,
    jobs: int = 1,
    engine: Engine | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Study:
    """Search hyper-parameters of a recipe, or continue a search that was interrupted.

        study = quiesce.tune(
            "mnist_freeze_w3a3",
            {"cure.threshold.end": "log:0.001:0.1", "scheme.weight_bits": [3, 4]},
        )
        print(study.best_params)

    A try trains one run for each seed; its value is the mean over the seeds. The folder gets the
    runs, best.yaml (the recipe of the best try, or a sweep of the Pareto front), and with two or
    three metrics pareto.html.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        search: Maps dotted fields of the recipe to a list of values, or to a text: "LO:HI",
            "log:LO:HI", "int:LO:HI" or "a,b,c".
        metrics: Numbers of `quiesce compare` (post_bn, train_loss, ...) or size_bytes; several make
            a Pareto front. ":min" or ":max" at the end sets the direction.
        tries: Number of tries of the whole study, by all its workers.
        seeds: Seeds of each try. Report final numbers on other seeds.
        flags: Flags that override the recipe: ["--trainer.max_epochs=3"].
        folder: Folder of the study; None means runs/<name of the recipe>-tune.
        storage: URL of a database ("mysql://...", "sqlite:///study.db") or a journal
            ("journal:PATH", "redis://..."), for workers that do not share the folder; None means
            an SQLite file in the folder.
        name: Name of the study in the storage; None means <name of the recipe>-tune.
        sampler: tpe, random, grid, qmc, nsgaii or gp.
        pruner: None, median or halving: stops a try whose first run has a worse test accuracy
            after an epoch than other tries had.
        jobs: Runs at a time on this machine.
        engine: An engine of `quiesce.sweeps.engines`, instead of `jobs`.
        tell: Called with a line about each try that ends, and with warnings.

    Returns:
        The study.

    Raises:
        MissingExtraError: Optuna is not installed.
        RecipeError: A setting cannot be used, other settings have made the study, its storage does
            not answer, or the first tries have all failed.
        EngineError: The engine cannot run the tries.
        KeyboardInterrupt: The active runs were stopped; the same call continues them.

    Examples:
        >>> short = ["--data.train_images=64", "--trainer.max_steps=2", "--compile=off"]
        >>> study = qs.tune(
        ...     "mnist_lsq_w3a3",
        ...     {"scheme.weight_bits": [3, 4]},
        ...     tries=1,
        ...     seeds=[100],
        ...     flags=short,
        ...     folder="study",
        ... )
        >>> list(study.best_params)
        ['scheme.weight_bits']
    """
    require("optuna", "`quiesce tune`", "tune")
    from quiesce.sweeps.engines.local import LocalEngine
    from quiesce.tuning.folder import path_of
    from quiesce.tuning.settings import read_settings
    from quiesce.tuning.worker import work

    settings = read_settings(
        recipe,
        search,
        metrics=metrics,
        tries=tries,
        seeds=seeds,
        sampler=sampler,
        pruner=pruner,
        flags=flags,
    )
    name = name or f"{settings.base.name}-tune"
    opened = work(
        settings,
        path_of(folder, name),
        name,
        storage,
        engine or LocalEngine(jobs),
        tell,
    )
    return opened.study()
