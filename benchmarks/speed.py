"""Step times of quantization-aware training against float, in one run; writes results/speed.json.

Usage: python benchmarks/speed.py [--rounds N]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measuring import interleaved, ratio, save
from tracker import time_tracker

from networks import cure_steps, data, float_step

SIZES = {"vit_tiny_patch16_224": 224}


def mobilenet(batch: int, rounds: int, with_brevitas: bool) -> dict[str, Any]:
    """Compare float, ours in both modes, and Brevitas."""
    name, batch_data = "mobilenetv2_100", data(batch, 96)
    actions = {
        "float eager": float_step(name, batch_data),
        "float compiled": float_step(name, batch_data, compiled=True),
    }
    for mode in ("quantizers", "model"):
        for what, action in cure_steps(name, mode, batch_data).items():
            actions[f"{what}, {mode}"] = action
    if with_brevitas and (brevitas := _brevitas_step(name, batch_data)) is not None:
        actions["brevitas"] = brevitas
    samples = interleaved(actions, rounds=rounds)
    ratios = {
        "freezing model / float eager": ratio(samples, "freezing, model", "float eager"),
        "freezing model / float compiled": ratio(samples, "freezing, model", "float compiled"),
        "freezing quantizers / float eager": ratio(samples, "freezing, quantizers", "float eager"),
    }
    for mode in ("quantizers", "model"):
        for cure in ("dampening", "freezing"):
            ratios[f"{cure} / lsq, {mode}"] = ratio(samples, f"{cure}, {mode}", f"lsq, {mode}")
    if "brevitas" in samples:
        for mode in ("quantizers", "model"):
            ratios[f"brevitas / ours, {mode}"] = ratio(samples, "brevitas", f"lsq, {mode}")
    return {"network": name, "batch": batch, "size": 96, "samples_s": samples, "ratios": ratios}


def other_network(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Compare float in eager mode with ours with the model compiled."""
    size = SIZES.get(name, 96)
    batch_data = data(batch, size)
    actions = {"float eager": float_step(name, batch_data)}
    actions["freezing, model"] = cure_steps(name, "model", batch_data)["freezing"]
    samples = interleaved(actions, rounds=rounds)
    ratios = {"freezing model / float eager": ratio(samples, "freezing, model", "float eager")}
    return {"network": name, "batch": batch, "size": size, "samples_s": samples, "ratios": ratios}


def tracker(weights: int, rounds: int) -> dict[str, Any]:
    """Compare a tracker step on many weights with cloning the latent weights."""
    samples, _ = time_tracker(weights, rounds)
    ratios = {"tracker step / clone": ratio(samples, "tracker step", "clone")}
    return {"weights": weights, "flips": 0.005, "samples_s": samples, "ratios": ratios}


def _brevitas_step(name: str, batch_data: Any) -> Callable[[], Any] | None:
    try:
        from brevitas_network import brevitas_step
    except ImportError:
        print("brevitas is not installed; left out (pip install brevitas)")
        return None
    return brevitas_step(name, batch_data)


def main() -> None:
    """Run everything, print the results, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "mobilenetv2_16": lambda: mobilenet(16, rounds, with_brevitas=True),
        "mobilenetv2_64": lambda: mobilenet(64, max(6, rounds // 2), with_brevitas=False),
        "resnet18": lambda: other_network("resnet18", 16, rounds),
        "vit_tiny": lambda: other_network("vit_tiny_patch16_224", 8, rounds),
        "tracker": lambda: tracker(100_000_000, rounds),
    }
    for key, part in parts.items():
        torch._dynamo.reset()
        results[key] = part()
        print(key, {k: round(v, 3) for k, v in results[key]["ratios"].items()}, flush=True)
    print(save("speed", results))


if __name__ == "__main__":
    main()
