"""The flags that choose where runs are trained: this machine, Ray or Slurm."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiesce.cli.arguments import Arguments
from quiesce.errors import RecipeError
from quiesce.files.untrusted.yaml_and_json import parse_yaml
from quiesce.sweeps.engines.engine import Engine
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.engines.ray_engine import RayEngine, Resources
from quiesce.sweeps.engines.slurm_engine import SlurmEngine
from quiesce.sweeps.mirror import Mirror

HERE, SLURM = "here", "slurm"
SLURM_FIELD = "--slurm."
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def add_engine_flags(parser: Arguments) -> None:
    """Add the flags `--jobs`, `--on`, and those of Ray."""
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time on this machine"
    )
    parser.add_argument(
        "--on",
        default=HERE,
        metavar="ENGINE",
        help="where the runs are trained: here (default), ray (starts Ray on this machine), "
        "ray://HOST:PORT or auto (a Ray cluster), slurm",
    )
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="Ray: cores of a run")
    parser.add_argument(
        "--gpus", type=float, default=0, metavar="N", help="Ray: devices of a run, such as 0.5"
    )
    parser.add_argument("--memory", default="0", metavar="SIZE", help="Ray: memory of a run: 8G")


def engine_of(
    known: Namespace, slurm: dict[str, Any], folder: Path, mirror: Mirror | None = None
) -> Engine:
    """Return the engine selected by the flags.

    Args:
        known: The parsed flags.
        slurm: Fields of sbatch, from `slurm_fields`.
        folder: The folder of the runs.
        mirror: The same at a URL, or None.

    Raises:
        RecipeError: The flags contradict each other, or a value is wrong.
        MissingExtraError: Ray or submitit is not installed.
    """
    if known.jobs < 1:
        raise RecipeError(f"--jobs must be 1 or more, got {known.jobs}")
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
    return RayEngine(known.on, folder, resources, mirror)


def _bytes(text: str) -> int:
    unit = text.upper().rstrip("IB").lstrip("0123456789.")
    try:
        return int(float(text.upper().rstrip("IB").removesuffix(unit)) * UNITS[unit])
    except (ValueError, KeyError) as error:
        raise RecipeError(f"--memory must be a size such as 800M or 8G, got {text!r}") from error


def slurm_fields(flags: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
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
