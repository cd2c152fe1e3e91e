"""Exports a finished run to a file for runtimes, and verifies the file on its test images."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quiesce.after_training.finished import FinishedRun, read_finished
from quiesce.errors import RecipeError
from quiesce.export import Export, Verification, export_onnx, verify_onnx
from quiesce.export.arrays import export_arrays
from quiesce.export.audit.auditing import FileAudit, audit_file
from quiesce.export.checks import check_path
from quiesce.export.metadata import Preprocessing
from quiesce.export.packing import Pack
from quiesce.export.program import Program, export_program
from quiesce.export.targets.exporting import TargetExport, export_to
from quiesce.export.targets.target import Target
from quiesce.export.verification.verify import LEAST_IMAGES, images_needed
from quiesce.user_code import is_user_code

SUMMARY_KEYS = ("name", "seed", "top1_percent", "train_loss", "steps", "versions")
"""Entries of summary.json that are copied to the file; none is a path."""

AUDIT_IMAGES = 128
"""Test images on which an audit measures the change of the outputs."""

WITH_FOLDER = ("folder", "cifar10", "cifar100")
"""Data sets that are read from a folder of the user."""

PICTURES = "folder"
"""The data set whose images are resized and cropped on reading."""


def export_run(
    folder: Path,
    path: Path,
    flags: Sequence[str] = (),
    *,
    pack: Pack = "int8",
    opset: int | None = None,
    uint8: bool = False,
    round_biases: bool = False,
    verify: bool = True,
    overwrite: bool = False,
) -> Export:
    """Export the network of a run folder to ONNX, and verify it on some of its test images.

    The number of images is that of `images_needed`; `quiesce verify` uses all.

    Args:
        folder: The folder of a finished run.
        path: The file to write.
        flags: Flags that override the recipe of the run.
        pack: Smallest data type for weight codes.
        opset: Version of the ONNX operators; None selects the default of `export_onnx`.
        uint8: Make the file accept raw pixels, 0 to 255, and normalise them.
        round_biases: Round biases to integers, see `export_onnx`.
        verify: Compare the file with the trained network before it is written.
        overwrite: Replace an existing file.

    Raises:
        QuiesceError: See `read_finished` and `export_onnx`.
    """
    check_path(path, overwrite=overwrite)  # before data are read and the network is run
    run = read_finished(folder, flags)
    count = images_needed(run.network, run.test_images(1)) if verify else 2
    return export_onnx(
        run.network,
        path,
        run.test_images(count),
        pack=pack,
        opset=opset,
        **_facts(run, uint8=uint8),
        round_biases=round_biases,
        verify=verify,
        overwrite=overwrite,
    )


def export_run_to(
    target: Target,
    folder: Path,
    path: Path,
    flags: Sequence[str] = (),
    *,
    options: Mapping[str, Any],
    uint8: bool = False,
    round_biases: bool | None = None,
    allow_differences: float | None = None,
    verify: bool = True,
    overwrite: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> TargetExport:
    """Export the network of a run folder to a target, and verify it on some of its test images.

    Args:
        target: The target.
        folder: The folder of a finished run.
        path: The file or folder to write.
        flags: Flags that override the recipe of the run.
        options: Options of the target, see `Target.options`; labels, summary and preprocessing of
            the run are added for targets that take them.
        uint8: See `export_run`.
        round_biases: See `quiesce.export`.
        allow_differences: See `quiesce.export`.
        verify: Compare the file with the trained network before it is written.
        overwrite: Replace what is at `path`.
        tell: Gets the name of each stage.

    Raises:
        QuiesceError: See `read_finished` and `quiesce.export`.
    """
    target.require()  # before data are read and the network is run
    check_path(path, overwrite=overwrite)
    run = read_finished(folder, flags)
    count = images_needed(run.network, run.test_images(1)) if verify else 2
    facts = _facts(run, uint8=uint8) if "labels" in target.options else {}
    return export_to(
        target,
        run.network,
        path,
        run.test_images(count),
        round_biases=round_biases,
        allow_differences=allow_differences,
        verify=verify,
        overwrite=overwrite,
        tell=tell,
        **{**facts, **options},
    )


def _facts(run: FinishedRun, *, uint8: bool) -> dict[str, Any]:
    """Return what an ONNX file says about its run."""
    return {
        "labels": run.data.classes,
        "summary": _finite({k: v for k, v in run.summary().items() if k in SUMMARY_KEYS}),
        "preprocessing": preprocessing(run, folded=uint8),
    }


def export_run_arrays(
    folder: Path, path: Path, flags: Sequence[str] = (), *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the arrays of `export_arrays` for a run folder; return the header of the file."""
    check_path(path, overwrite=overwrite)
    run = read_finished(folder, flags)
    return export_arrays(run.network, path, run.test_images(2), overwrite=overwrite)


def export_run_program(
    folder: Path,
    path: Path,
    flags: Sequence[str] = (),
    *,
    verify: bool = True,
    overwrite: bool = False,
) -> Program:
    """Write the network of a run folder as a .pt2 file, see `export_program`."""
    check_path(path, overwrite=overwrite)
    run = read_finished(folder, flags)
    images = run.test_images(LEAST_IMAGES)
    return export_program(run.network, path, images, verify=verify, overwrite=overwrite)


def verify_run(
    folder: Path, path: Path, data: Path | None, flags: Sequence[str] = ()
) -> Verification:
    """Compare an exported file with the network of a run folder, on test images with labels.

    Args:
        data: Folder of images that replaces the one in the recipe, or None.

    Raises:
        RecipeError: `data` is given, and the run's data set is not read from a folder.
        QuiesceError: See `read_finished` and `verify_onnx`.
    """
    given = [] if data is None else [f"--data.folder={data}"]
    run = read_finished(folder, [*flags, *given])
    name = run.recipe.data.name
    if data is not None and name not in WITH_FOLDER and not is_user_code(name):
        raise RecipeError(f"{folder}: its data set {name} is not read from a folder; omit --data")
    return verify_onnx(run.network, path, run.test_batches())


def audit_run(folder: Path, path: Path, flags: Sequence[str] = ()) -> FileAudit:
    """Compare the numbers in a file with the network of a run folder; see `quiesce.audit`.

    Raises:
        QuiesceError: See `read_finished` and `audit_file`.
    """
    run = read_finished(folder, flags)
    return audit_file(run.network, path, run.test_images(AUDIT_IMAGES))


def preprocessing(run: FinishedRun, *, folded: bool) -> Preprocessing | None:
    """Return the preprocessing of the run's test images, for users of the file.

    It is None if a user data set does not provide it.

    Raises:
        RecipeError: It is unknown, and the file should normalise images itself (`folded`).
    """
    config, data = run.recipe.data, run.data
    if data.mean is None or data.std is None:
        if folded:
            raise RecipeError(
                f"{run.folder}: --uint8 needs the mean and std of the data; return them in the "
                f"Images of {config.name}"
            )
        return None
    size = data.input_shape[1], data.input_shape[2]
    options: dict[str, Any] = {}
    if config.name == PICTURES:
        options = {"resize": int(size[0] / config.crop_share)}
    return Preprocessing(
        mean=data.mean,
        std=data.std,
        size=size,
        interpolation=config.interpolation,
        folded=folded,
        **options,
    )


def _finite(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None, as strict JSON requires."""
    return json.loads(json.dumps(tree), parse_constant=lambda _: None)
