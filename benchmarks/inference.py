"""Speed and size of exported networks in ONNX Runtime: float, ONNX Runtime's own int8, and ours.

One run times all files, alternating, with one thread and with two. ONNX Runtime's profile says
which operators of the optimised graphs run, how often, and how long. The weights are random. Size
does not depend on them; speed does a little, through the layers that have an integer bias.

    python benchmarks/inference.py
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from measuring import interleaved, ratio, save
from onnxruntime import quantization
from torch import nn

import quiesce as qs

NETWORKS = ("mobilenetv2_100", "tf_efficientnet_lite0")
SIZE = 224
ROUNDS = 30
THREADS = (1, 2)
PROFILED = 10
TARGETS = {"ours / ORT int8": 1.05, "float / ours": 1.4, "int4 / float bytes": 0.16}
W4A4 = qs.Scheme(weight_bits=4, act_bits=4)
INTEGERS = qs.Scheme(weight_bits=4, act_bits=4, residual="quantized")
W4A8 = qs.Scheme(weight_bits=4, act_bits=8, residual="quantized")
ALL_4 = qs.Scheme(weight_bits=4, act_bits=4, first_last_bits=None)
OURS: dict[str, tuple[qs.Scheme, dict[str, Any]]] = {
    "float_residual": (W4A4, {}),
    "ours": (INTEGERS, {}),
    "ours_a8": (W4A8, {"round_biases": True}),
    "int4": (W4A4, {"pack": "int4"}),
    "int4_all": (ALL_4, {"pack": "int4"}),
}
"""File to how it is quantized and exported; `int4_all`: first and last layer at 4 bits too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    known = parser.parse_args()
    about = {"targets": TARGETS, "size": SIZE, "onnxruntime": onnxruntime.__version__}
    found: dict[str, Any] = {}
    for name in known.networks:
        found[name] = measure(name, known.rounds, known.threads)
        print(save("inference", {**about, "networks": found}))


def measure(name: str, rounds: int, threads: Sequence[int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files, integer = make_files(name, Path(folder))
        times = {str(count): time_files(files, count, rounds) for count in threads}
        size = {kind: path.stat().st_size for kind, path in files.items()}
        found = {
            "bytes": size,
            "integer_layers": integer,
            "operators": {kind: operators(path, Path(folder)) for kind, path in files.items()},
            "milliseconds": {
                count: {kind: 1000 * statistics.median(each) for kind, each in samples.items()}
                for count, samples in times.items()
            },
            "ratios": {
                count: {
                    "ours / ORT int8": ratio(samples, "ours", "ort_int8"),
                    "float / ours": ratio(samples, "float", "ours"),
                    "ours, W4A8 / ORT int8": ratio(samples, "ours_a8", "ort_int8"),
                    "float / ours, W4A8": ratio(samples, "float", "ours_a8"),
                }
                for count, samples in times.items()
            },
            "sizes": {
                "int4 / float bytes": size["int4"] / size["float"],
                "int4 all / float bytes": size["int4_all"] / size["float"],
            },
            "samples": times,
        }
    print(name, found["milliseconds"], found["ratios"], found["sizes"], flush=True)
    return found


def make_files(name: str, folder: Path) -> tuple[dict[str, Path], dict[str, list[int]]]:
    """Write the files; return them by kind, and how many layers of ours have an integer bias."""
    kinds = ("float", "ort_int8", *OURS)
    files = {kind: folder / f"{kind}.onnx" for kind in kinds}
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    float_files(network_of(name), images, files["float"], files["ort_int8"])
    integer = {}
    for kind, (scheme, options) in OURS.items():
        network = qs.prepare(network_of(name), scheme, images[:1])
        qs.calibrate(network, [images])
        made = qs.export_onnx(network, files[kind], images, **options, verify=False)
        layers = made.description.layers
        integer[kind] = [sum(layer.integer for layer in layers), len(layers)]
    return files, integer


def float_files(network: nn.Module, images: torch.Tensor, path: Path, quantized: Path) -> None:
    """Write the float network, and the network that ONNX Runtime itself quantizes."""
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(path)
    quantization.quantize_static(
        path,
        quantized,
        Reader(images.numpy()),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


class Reader(quantization.CalibrationDataReader):
    """Gives one image after another to ONNX Runtime's quantizer."""

    def __init__(self, images: np.ndarray) -> None:
        self._left = [{"images": image[None]} for image in images]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def network_of(name: str) -> nn.Module:
    """Return a timm network with random weights, and batch norms that change their inputs."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    return model


def an_image() -> dict[str, np.ndarray]:
    """Return the input that all files are timed with."""
    return {"images": np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)}


def open_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the CPU, with all graph optimisations."""
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def time_files(files: dict[str, Path], threads: int, rounds: int) -> dict[str, list[float]]:
    """Time the files, alternating: seconds of each call."""
    image = an_image()
    actions = {}
    for kind, path in files.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # else the second thread of the file before takes a core from this one
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = open_session(path, options)
        actions[kind] = lambda session=session: session.run(None, image)
    return interleaved(actions, rounds=rounds, warmup=3)


def operators(path: Path, folder: Path) -> dict[str, list[float]]:
    """Return count and milliseconds, on one thread, of each operator of the optimised graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = open_session(path, options)
    for _ in range(PROFILED + 1):
        session.run(None, an_image())
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for (operator, _), milliseconds in nodes.items():
        found[operator][0] += 1
        found[operator][1] += statistics.median(milliseconds)
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


if __name__ == "__main__":
    main()
