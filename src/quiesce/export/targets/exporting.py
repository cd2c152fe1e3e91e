"""Exports a network to a target: checks, builds, verifies, and only then writes."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quiesce.errors import ExportError, MismatchError
from quiesce.export.biases.rounded_biases import with_rounded_biases
from quiesce.export.checks import check_path, check_runs
from quiesce.export.targets.catalog import target_named
from quiesce.export.targets.target import Network, Target
from quiesce.export.verification.comparison import compare as compare_file
from quiesce.export.verification.outputs import Compare, check_compare
from quiesce.export.verification.result import MAX_CODES, Verification
from quiesce.files.atomic import write_beside, write_folder_beside
from quiesce.inference import Input
from quiesce.parallel.wrappers import without_wrappers


@dataclass(frozen=True, kw_only=True)
class TargetExport:
    """The file that `quiesce.export` wrote."""

    path: Path
    """The file, or the folder."""
    target: str
    """Name of the target."""
    size: int
    """Size in bytes, of all files together."""
    verification: Verification | None
    """The comparison with the trained network; None if it was skipped."""
    notes: tuple[str, ...] = ()
    """What the user should know about the file: untested versions, widths of accumulators."""


def export(
    model: nn.Module,
    path: str | Path,
    *,
    target: str = "onnx",
    example_input: Input,
    round_biases: bool | None = None,
    allow_differences: float | None = None,
    compare: Compare | None = None,
    verify: bool = True,
    overwrite: bool = False,
    **options: Any,
) -> TargetExport:
    """Write a prepared, calibrated model in the format of a target.

    Before it is written, the file runs in the runtime of the target, and is compared with the
    model: its weights code by code, every layer from the trained codes of its input, and the whole.

    Args:
        model: A prepared model, or an AveragedModel of one; exported in inference mode, and not
            changed.
        path: The file to write, or the folder (hls4ml); it appears only when it is complete.
        target: Name of the target; `quiesce targets` lists them.
        example_input: Inputs of the model, on which file and model are compared: a batch of real
            ones.
        round_biases: Round biases to integers that integer convolutions can add, see `export_onnx`.
            None is the default of the target, True for executorch.
        allow_differences: Share of the codes of a layer that may differ from the trained ones, 0
            to 1, by at most one code. None is the default of the target: 1e-4 for onnx, and 0 for
            the others, which do not count codes whose exact value is within 1e-4 of a code from a
            threshold: there the order of a float32 sum decides.
        compare: How the outputs of the whole file are compared, see `verify_onnx`.
        verify: Compare before writing.
        overwrite: Replace an existing file.
        **options: Further arguments of the target onnx, see `export_onnx`.

    Returns:
        The file and its verification.

    Raises:
        ExportError: The file exists; there is no such target; or the target does not take the
            model, and the message names the layer and the nearest scheme that works.
        MismatchError: The file would not compute what the model computes; nothing is written.
        MissingExtraError: A package of the target is not installed.
        NotCalibratedError, NothingToDoError, DivergedError: See `export_onnx`.
        TypeError, ValueError: An argument is wrong.

    Examples:
        >>> made = qs.export(layer, "model.onnx", target="onnx", example_input=x)
        >>> made.verification.passed
        True
    """
    found = target_named(target)
    made = export_to(
        found,
        model,
        path,
        example_input,
        round_biases=round_biases,
        allow_differences=allow_differences,
        compare=compare,
        verify=verify,
        overwrite=overwrite,
        **options,
    )
    for text in found.untested:
        warnings.warn(text, stacklevel=3)  # of the caller of the package
    return made


def export_to(
    target: Target,
    model: nn.Module,
    path: str | Path,
    example_input: Input,
    *,
    round_biases: bool | None = None,
    allow_differences: float | None = None,
    compare: Compare | None = None,
    verify: bool = True,
    overwrite: bool = False,
    tell: Callable[[str], object] = lambda _: None,
    **options: Any,
) -> TargetExport:
    """Export as `export` does, without warnings; `tell` gets the name of each stage."""
    if unknown := sorted(set(options) - target.options):
        raise TypeError(f"the target {target.name} has no option {unknown[0]!r}")
    allowed = target.allows if allow_differences is None else allow_differences
    if not (isinstance(allowed, int | float) and math.isfinite(allowed) and 0 <= allowed <= 1):
        raise ValueError(f"`allow_differences` must be a share, 0 to 1, got {allowed!r}")
    check_compare(compare)
    target.require()
    path, model = check_path(path, overwrite=overwrite), without_wrappers(model)
    example = check_runs(model, example_input)
    rounds = target.rounds_biases if round_biases is None else round_biases
    refuse(target, Network(model, example))
    tell("writing the network")
    exported = with_rounded_biases(model, example) if rounds else model
    file = target.build(Network(exported, example, rounded_biases=rounds), **options)
    verification = None
    if verify:
        tell(f"running it in {target.name}")
        candidate = file.candidate(model, path.name, allowed)
        given = [(example, None)]
        verification = compare_file(model, candidate, given, exported=exported, how=compare)
        if not verification.passed:
            raise MismatchError(
                f"{path} was not written: {verification.verdict}{_way_out(verification)}"
            )
    if target.suffix:
        write_beside(path, file.write)
    else:
        write_folder_beside(path, file.write)
    return TargetExport(
        path=path,
        target=target.name,
        size=_size(path),
        verification=verification,
        notes=(*target.untested, *file.notes()),
    )


@torch.no_grad()
def refuse(target: Target, network: Network) -> None:
    """Raise an error if a target does not take a network.

    Raises:
        ExportError: The message names the first layer, and the nearest scheme that works.
    """
    if refusals := target.check(network):
        more = f" ({len(refusals)} in all)" if len(refusals) > 1 else ""
        raise ExportError(f"{target.name} does not take {refusals[0]}{more}")


def _way_out(found: Verification) -> str:
    """Return the flag that accepts the differences, if only codes differ, by one."""
    share = max(
        ((layer.differ - layer.undecided) / max(1, layer.codes) for layer in found.layers),
        default=0.0,
    )
    farthest = max((layer.largest for layer in found.layers), default=0)
    if found.wrong_weights or farthest > MAX_CODES or not share:
        return ""
    rounded = math.ceil(share * 1e7) / 1e7
    return (
        f". At most {100 * share:.2g} % of the codes of a layer differ; accept them with "
        f"--allow-differences {rounded:.7g} (allow_differences= in a program)"
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)
