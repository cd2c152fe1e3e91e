"""Exports a finished run and times it against its float network, for demo and report."""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from quiesce.after_training.export import export_run
from quiesce.after_training.finished import FinishedRun, read_finished
from quiesce.errors import MismatchError
from quiesce.export import verify_onnx
from quiesce.export.graph.edits import onnx_ir
from quiesce.export.graph.tracing import translate
from quiesce.export.interface import example_of
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.export.runtime import session
from quiesce.models.build import build_model
from quiesce.run_folder.contents import ShippedFile

ROUNDS = 30
"""Number of timed runs of each file, alternating between files; the result is the median."""


def ship(folder: Path, path: Path) -> ShippedFile:
    """Export a run, verify it on its test images, and time it against its float network.

    Times are on one thread, measured alternately.

    Raises:
        MismatchError: The outputs of the file differ from those of the network.
    """
    export_run(folder, path)
    run = read_finished(folder)
    found = verify_onnx(run.network, path, run.test_batches())
    if not found.passed:
        raise MismatchError(f"{path}: {found.verdict}")
    told = {"images": found.images, "right": found.right_runtime}
    return structs.replace(_measured(run, path), verified=True, **told)


def measure(folder: Path, flags: Sequence[str] = ()) -> ShippedFile:
    """Export a run to a temporary file, and measure its size and time against the float network.

    The file is verified on as many test images as `quiesce export` takes; no accuracy is measured.

    Args:
        folder: A finished run.
        flags: Flags that override its recipe.

    Raises:
        MismatchError: The outputs of the file differ from those of the network.
        QuiesceError: The run is not finished, or its network cannot be exported.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export_run(folder, path, flags)
        return structs.replace(_measured(read_finished(folder, flags), path), verified=True)


def _measured(run: FinishedRun, path: Path) -> ShippedFile:
    """Return sizes and times of an exported file and of the float network."""
    images = run.test_images(2)
    float_content, content = _float_network(run, images), path.read_bytes()
    ours, theirs = time_in_turns([content, float_content], images[:1])
    return ShippedFile(
        bytes=len(content),
        float_bytes=len(float_content),
        milliseconds=ours,
        float_milliseconds=theirs,
        timed_on=f"ONNX Runtime {version('onnxruntime')}, one thread, {platform.machine()}",
    )


def time_in_turns(contents: list[bytes], image: Tensor) -> list[float]:
    """Return the median milliseconds of files in ONNX Runtime on one thread, timed alternately."""
    feed: dict[str, np.ndarray] = {"images": image.numpy()}
    sessions = [session(content, optimized=True, threads=1) for content in contents]
    calls: list[Callable[[], Any]] = [
        lambda each=each: each.run(["logits"], feed) for each in sessions
    ]
    for call in calls:
        call()
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, sample in zip(calls, samples, strict=True):
            started_s = time.perf_counter()
            call()
            sample.append(1000 * (time.perf_counter() - started_s))
    return [statistics.median(sample) for sample in samples]


def _float_network(run: FinishedRun, images: Tensor) -> bytes:
    """Return the float network as ONNX; size and time are independent of its weights."""
    start = replace(run.recipe.model, weights="random")
    data = run.data
    with torch.random.fork_rng(devices=[]):
        network = build_model(start, num_classes=len(data.classes), input_shape=data.input_shape)
    traced = translate(
        network.eval(), example_of(network, images), DEFAULT_OPSET, run.recipe.model.name
    )
    return onnx_ir().to_proto(traced).SerializeToString()
