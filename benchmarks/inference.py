"""Speed and size of exported networks in ONNX Runtime: float, ONNX Runtime's own int8, and ours.

One run times all three in turns, with one thread and with two, and reads off the optimised graphs
which operators run in integers. Random weights: time and size do not depend on them.

    python benchmarks/inference.py
"""

import argparse
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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
TARGETS = {"ours / ORT int8": 1.05, "float / ours": 1.4, "int4 / float bytes": 0.16}
INTEGER = ("QLinearConv", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "QLinearAdd")
FLOAT = ("Conv", "FusedConv", "Gemm", "MatMul")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    known = parser.parse_args()
    results = {name: measure(name, known.rounds) for name in known.networks}
    path = save("inference", {"targets": TARGETS, "size": SIZE, "networks": results})
    print(path)


def measure(name: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(name, Path(folder))
        times = {str(threads): time_files(files, threads, rounds) for threads in (1, 2)}
        found = {
            "bytes": {kind: path.stat().st_size for kind, path in files.items()},
            "operators": {kind: operators(path, Path(folder)) for kind, path in files.items()},
            "milliseconds": {
                threads: {kind: 1000 * statistics.median(each) for kind, each in samples.items()}
                for threads, samples in times.items()
            },
            "ratios": {
                threads: {
                    "ours / ORT int8": ratio(samples, "ours", "ort_int8"),
                    "float / ours": ratio(samples, "float", "ours"),
                }
                for threads, samples in times.items()
            },
            "samples": times,
        }
        found["ratios"]["int4 / float bytes"] = found["bytes"]["int4"] / found["bytes"]["float"]
    print(name, found["bytes"], found["milliseconds"], found["ratios"], found["operators"])
    return found


def make_files(name: str, folder: Path) -> dict[str, Path]:
    kinds = ("float", "ort_int8", "ours", "int4")
    files = {kind: folder / f"{kind}.onnx" for kind in kinds}
    torch.manual_seed(0)
    images = torch.randn(8, 3, SIZE, SIZE)
    network = shaken(timm.create_model(name)).eval()
    program = torch.onnx.export(
        network,
        (images[:2],),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(files["float"])
    quantization.quantize_static(
        files["float"],
        files["ort_int8"],
        Reader(images.numpy()),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    qs.prepare(network, qs.Scheme(weight_bits=4, act_bits=4, first_input_bits=8), images[:1])
    qs.calibrate(network, [images])
    qs.export_onnx(network, files["ours"], images, verify=False)
    qs.export_onnx(network, files["int4"], images, pack="int4", verify=False)
    return files


class Reader(quantization.CalibrationDataReader):
    """Hands ONNX Runtime's quantizer one image after the other."""

    def __init__(self, images: np.ndarray) -> None:
        self._left = [{"images": image[None]} for image in images]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def shaken(model: nn.Module) -> nn.Module:
    """Batch norms that do something, as in a trained network."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    return model


def time_files(files: dict[str, Path], threads: int, rounds: int) -> dict[str, list[float]]:
    image = {"images": np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)}
    actions = {}
    for kind, path in files.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        actions[kind] = lambda session=session: session.run(None, image)
    return interleaved(actions, rounds=rounds, warmup=3)


def operators(path: Path, folder: Path) -> dict[str, int]:
    """How many operators of the optimised graph multiply in integers, and how many in floats."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    return {kind: count[kind] for kind in (*INTEGER, *FLOAT) if count[kind]}


if __name__ == "__main__":
    main()
