"""Kinds of files: sound ones, how they are changed, and the commands that read them."""

import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from fuzz import mutations
from quiesce.cli import BAD_INPUT, main
from quiesce.errors import QuiesceError
from quiesce.files.weight_files import load_weights, read_weights
from quiesce.recipes.reading import SHIPPED
from support import made_runs, tiny

QUICK = "mnist_freeze_w3a3"


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    make: Callable[[Path], list[Path]]
    """Makes sound files in a folder of their own, and returns those to change."""

    change: Callable[[Random, bytes], bytes]
    """Changes the content of one."""

    use: Callable[[Random, Path, Path], bool]
    """Gives one (second) of a folder (first) to a command; True where it took it."""


class Wrong(Exception):
    """A command did something else than succeed or refuse in one line."""


def command(*argv: object) -> bool:
    """Run a command in this process; True where it succeeded."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(each) for each in argv])
    told = err.getvalue()
    if argv[:2] == ("train", "--resume"):  # which says first from where it goes on
        told = told[told.find("quiesce: ") :]
    if code == BAD_INPUT and not (told.startswith("quiesce: ") and told.count("\n") == 1):
        raise Wrong(f"exit code {BAD_INPUT} with {told!r}")
    if code not in (0, 1, BAD_INPUT):
        raise Wrong(f"exit code {code}")
    return code != BAD_INPUT


def trained(folder: Path, *flags: str) -> Path:
    """Train for two steps."""
    run = folder / "run"
    if not command("train", QUICK, *tiny.flags(), *flags, f"--run={run}"):
        raise Wrong("the run of these tests does not train")
    return run


def run_of_a_report(folder: Path) -> Path:
    return made_runs.make_run(folder / "run", made_runs.Made(blocks=2, weights=500, steps=450))


def recipes(folder: Path) -> list[Path]:
    return [shutil.copy(SHIPPED / f"{QUICK}.yaml", folder / "recipe.yaml")]


def sweeps(folder: Path) -> list[Path]:
    path = folder / "sweep.yaml"
    variants = "variants: {a: {tracker.momentum: 0.02}, b: {}}"
    grid = "grid: {cure.threshold.end: [0.01, 0.02]}"
    path.write_text(f"recipe: {QUICK}\nseeds: 2\nbaseline: a\n{variants}\n{grid}\n")
    return [path]


def trees(folder: Path) -> list[Path]:
    run = run_of_a_report(folder)
    return [run / f"{name}.json" for name in ("summary", "diagnosis", "probe")]


def listings(folder: Path) -> list[Path]:
    sweep = made_runs.make_sweep(folder / "run", "cure.threshold.end", [0.01, 0.02], seeds=1)
    return [sweep / "sweep.json"]


def kept_recipes(folder: Path) -> list[Path]:
    return [run_of_a_report(folder) / "recipe.yaml"]


def tables(folder: Path) -> list[Path]:
    run = run_of_a_report(folder)
    names = ("metrics", "layers", "batchnorm", "batchnorm_loss")
    return [run / f"{name}.csv" for name in names]


def arrays(folder: Path) -> list[Path]:
    return [run_of_a_report(folder) / "trajectories.npz"]


def report(random: Random, folder: Path, _: Path) -> bool:
    return command("report", folder / "run", "-o", folder / "page.html", "--force")


def report_or_compare(random: Random, folder: Path, path: Path) -> bool:
    if path.name in ("diagnosis.json", "probe.json") or random.random() < 0.4:
        return report(random, folder, path)
    return command("compare", folder / "run")


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def weights(folder: Path) -> list[Path]:
    state = network().state_dict()
    torch.save({"state_dict": state, "epoch": 3}, folder / "new.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [folder / "new.pt", folder / "old.pt"]


def load(_: Random, __: Path, path: Path) -> bool:
    try:
        load_weights(network(), read_weights(path), source=path)
    except QuiesceError as error:
        if "\n" in str(error):
            raise Wrong(f"more than a line: {error}") from error
        return False
    return True


def exported(folder: Path) -> list[Path]:
    run = trained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    if not command("export", run, "-o", folder / "model.onnx", "--no-verify"):
        raise Wrong("the run of these tests is not exported")
    return [folder / "model.onnx"]


def predict_or_verify(random: Random, folder: Path, path: Path) -> bool:
    if random.random() < 0.7:
        return command("predict", path, folder / "picture.png")
    return command("verify", folder / "run", path)


def cut_off(folder: Path) -> list[Path]:
    """A run after the first of its two steps; what is tried is a copy of it beside it."""
    run = trained(folder, "--checkpoint.every=1")
    last = run / "checkpoints" / "last.ckpt"
    last.with_name("previous.ckpt").replace(last)
    (run / "summary.json").unlink()
    (folder / "tried").mkdir()
    return [last]


def resume(_: Random, folder: Path, __: Path) -> bool:
    shutil.rmtree(folder / "tried")
    shutil.copytree(folder / "run", folder / "tried")
    return command("train", "--resume", folder / "tried")


KINDS = {
    "recipe": Kind(
        recipes, mutations.yaml_of, lambda _, __, path: command("train", path, "--print_config")
    ),
    "sweep": Kind(
        sweeps, mutations.yaml_of, lambda _, __, path: command("sweep", path, "--dry-run")
    ),
    "json": Kind(trees, mutations.json_of, report_or_compare),
    "sweep.json": Kind(listings, mutations.json_of, report_or_compare),
    "recipe of a run": Kind(kept_recipes, mutations.yaml_of, report_or_compare),
    "recipe of a network": Kind(
        lambda folder: [trained(folder) / "recipe.yaml"],
        mutations.yaml_of,
        lambda _, folder, __: command("evaluate", folder / "run"),
    ),
    "csv": Kind(tables, mutations.csv_of, report),
    "npz": Kind(arrays, mutations.npz_of, report),
    "pt": Kind(weights, mutations.torch_of, load),
    "ckpt": Kind(
        lambda folder: [trained(folder) / "checkpoints" / "last.ckpt"],
        mutations.torch_of,
        lambda _, folder, __: command("diagnose", folder / "run"),
    ),
    "resume": Kind(cut_off, mutations.bytes_of, resume),
    "safetensors": Kind(
        lambda folder: [trained(folder) / "network.safetensors"],
        mutations.safetensors_of,
        lambda _, folder, __: command("evaluate", folder / "run"),
    ),
    "onnx": Kind(exported, mutations.onnx_of, predict_or_verify),
}
