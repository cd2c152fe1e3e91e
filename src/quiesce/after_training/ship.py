"""Exports a finished run and times it against its float network, for `quiesce demo`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
    made = export_run(folder, path)
    run = read_finished(folder)
    found = verify_onnx(run.network, path, run.test_batches())
    if not found.passed:
        raise MismatchError(f"{path}: {found.verdict}")
    images = run.test_images(2)
    float_content = _float_network(run, images)
    ours, theirs = time_in_turns([path.read_bytes(), float_content], images[:1])
    return ShippedFile(
        verified=found.passed,
        images=found.images,
        right=found.right_runtime,
        bytes=made.size,
        float_bytes=len(float_content),
        milliseconds=ours,
        float_milliseconds=theirs,
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
