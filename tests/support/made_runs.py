"""Run folders as training, diagnosis and probe leave them, made from numbers instead of hours.

What is drawn has the shape of the real thing: oscillation starts in depth-wise layers, latents pile
up at thresholds where weights oscillate, and batch norms behind such layers are off.
"""

import csv
import json
from dataclasses import dataclass

import numpy as np
import yaml


@dataclass(frozen=True)
class Made:
    """What differs between the runs of these tests."""

    name: str = "made_lsq_w3a3"
    cure: str = "none"
    oscillating: float = 0.08
    kl: float = 0.41
    frozen: float = 0.0
    blocks: int = 6
    weights: int = 5_000
    steps: int = 1_000
    seed: int = 0
    lr: float = 0.05

    @property
    def layers(self):
        """(name, kind, weights, bits), in the order of the network."""
        each = max(self.weights // (2 * self.blocks + 2), 18)
        layers = [("conv_stem", "full", each, 8)]
        for block in range(self.blocks):
            layers.append((f"blocks.{block}.conv_dw", "depth-wise", max(each // 4, 9), 3))
            layers.append((f"blocks.{block}.conv_pw", "point-wise", each, 3))
        return [*layers, ("classifier", "linear", each, 8)]

    def share(self, kind, place):
        """Oscillating share of a layer: three times as much where it is depth-wise."""
        if kind not in ("depth-wise", "point-wise"):
            return 0.9 * (self.oscillating > 0)
        return self.oscillating * (1.0 if kind == "depth-wise" else 0.3) * (0.5 + (place % 7) / 6)


QUIET = {"oscillating": 0.0, "kl": 0.001}
"""Of a run in which nothing ever oscillates."""


def make_run(folder, made=None, *, finished=True, diagnosed=True, recorded=True, probed=True):
    """Write a run folder; returns it."""
    made = made or Made()
    folder.mkdir(parents=True)
    noise = np.random.default_rng(made.seed)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(made, folder)), "utf-8")
    write_csv(folder / "metrics.csv", metrics(made, noise, finished))
    if finished:
        write_json(folder / "summary.json", summary(made))
    if recorded:
        write_csv(folder / "layers.csv", layers(made, noise))
        write_csv(folder / "batchnorm.csv", batchnorm(made, noise))
        write_csv(folder / "batchnorm_loss.csv", batchnorm_loss(made))
        np.savez_compressed(folder / "trajectories.npz", **trajectories(made, noise))
    if diagnosed:
        write_json(folder / "diagnosis.json", diagnosis(made, noise))
    if probed:
        write_json(folder / "probe.json", probe(made, noise))
    return folder


def make_sweep(folder, field, values, seeds=2):
    """Write a sweep of freezing thresholds; its last run has not begun. Returns it."""
    runs = []
    for i, value in enumerate(values):
        for seed in range(seeds):
            name = f"made-{field}={value}-seed{seed}"
            runs.append({"folder": name, "fields": {field: value}, "seed": seed})
            if runs[-1]["seed"] + 1 == seeds and i + 1 == len(values):
                continue
            made = Made(
                name="made", cure="freeze", seed=seed, oscillating=0.001 * 2**i * (1 + seed / 9)
            )
            make_run(folder / name, made, recorded=False, probed=False)
    tree = {"recipe": "made", "set": {field: list(values)}, "seeds": list(range(seeds))}
    write_json(folder / "sweep.json", {"version": 1, **tree, "runs": runs})
    return folder


def write_json(path, tree):
    path.write_text(json.dumps(tree), "utf-8")


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def recipe(made, folder):
    return {
        "version": 1,
        "name": made.name,
        "seed": made.seed,
        "run": str(folder),
        "data": {"name": "made_up", "folder": None, "image_size": 28},
        "model": {"name": "small_net", "weights": "random"},
        "float_stage": {"epochs": 20},
        "trainer": {"max_epochs": 30},
        "scheme": {"weight_bits": 3, "act_bits": 4, "first_last_bits": 8},
        "cure": {"kind": made.cure},
        "weights_optimizer": {"lr": made.lr},
    }


def metrics(made, noise, finished):
    columns = ("step", "epoch", "loss", "epoch_loss", "top1_percent", "oscillating", "frozen")
    empty = dict.fromkeys((*columns, "flips_per_step", "lr", "cure"), "")
    rows = []
    steps = made.steps if finished else made.steps // 3
    for step in range(9, steps, 10):
        done = step / made.steps
        rows.append(
            empty
            | {
                "step": step,
                "epoch": step // 100,
                "loss": 0.05 + 0.5 * np.exp(-5 * done) + 0.03 * noise.random(),
                "oscillating": made.oscillating * (1 - np.exp(-6 * done)),
                "frozen": made.frozen * done,
                "flips_per_step": 300 * made.oscillating,
                "lr": made.lr * (1 + np.cos(np.pi * done)) / 2,
                "cure": "" if made.cure == "none" or done < 0.25 else 0.02 - 0.015 * done,
            }
        )
        if step % 100 == 99:
            top1 = 97 - 12 * np.exp(-4 * done)
            loss = 0.06 + 0.5 * np.exp(-5 * done)
            rows.append(
                empty
                | {"step": step, "epoch": step // 100, "top1_percent": top1, "epoch_loss": loss}
            )
    return rows


def summary(made):
    low = [layer for layer in made.layers if layer[3] == 3]
    return {
        "version": 1,
        "name": made.name,
        "seed": made.seed,
        "top1_percent": {"float": 97.7, "rounded": 88.7, "trained": 97.2, "reestimated": 97.8},
        "train_loss": 0.057,
        "steps": made.steps,
        "seconds": {"all": 60.0},
        "seconds_per_step": 0.047,
        "oscillation": {
            "cut": 0.005,
            "momentum": 0.01,
            "low_bits": 3,
            "low_bit": _over(made, low),
            "low_bit_depthwise": _over(made, [each for each in low if each[1] == "depth-wise"]),
            "every_bit": _over(made, made.layers),
            "layers": [
                _layer(made, i, layer) | {"depthwise": layer[1] == "depth-wise"}
                for i, layer in enumerate(made.layers)
            ],
        },
        "batchnorm_kl": {
            f"blocks.{i}.bn": {"mean": made.kl / 2**i, "max": made.kl} for i in range(made.blocks)
        },
        "versions": {"python": "3.11.7", "quiesce": "0.1.0"},
    }


def _over(made, layers):
    weights = sum(layer[2] for layer in layers)
    total = sum(made.share(layer[1], made.layers.index(layer)) * layer[2] for layer in layers)
    shares = {"oscillating": total / weights, "frozen": made.frozen, "transition_rate": 0.01}
    return {"weights": weights, "flips_per_step": 0.02 * total, **shares}


def _layer(made, place, layer):
    name, kind, weights, bits = layer
    oscillating = made.share(kind, place)
    return {
        "name": name,
        "weights": weights,
        "bits": bits,
        "oscillating": oscillating,
        "frozen": made.frozen if bits == 3 else 0.0,
        "flips_per_step": 0.1 * oscillating * weights,
        "distance_ratio": 1 + 20 * oscillating,
        "transition_rate": 0.1 * oscillating,
    }


def layers(made, noise):
    rows = []
    for step in np.linspace(10, made.steps, 40).astype(int):
        for place, (name, kind, weights, bits) in enumerate(made.layers):
            share = made.share(kind, place) * (1 - np.exp(-6 * step / made.steps))
            rows.append(
                {
                    "step": step,
                    "layer": name,
                    "oscillating": share * (0.9 + 0.2 * noise.random()),
                    "frozen": made.frozen * step / made.steps,
                    "flips_per_step": 0.1 * share * weights,
                    "transition_rate": 0.1 * share,
                    "bits": bits,
                }
            )
    return rows


def _kl(made, place, kind):
    return made.kl * (1 if kind == "depth-wise" else 0.02) / 2 ** (place % 5) + 1e-6


def batchnorm(made, noise):
    rows = []
    for step in np.linspace(100, made.steps, 10).astype(int):
        for place, (name, kind, _, _) in enumerate(made.layers):
            kl = _kl(made, place, kind) * (0.8 + 0.4 * noise.random())
            row = {"layer": f"{name}.bn", "kind": kind, "kl_mean": kl, "kl_max": 5 * kl}
            rows.append({"step": step} | row)
    return rows


def batchnorm_loss(made):
    return [
        {
            "step": step,
            "loss_running": 0.047 + 0.3 * np.exp(-5 * step / made.steps),
            "loss_reestimated": 0.028 + 0.3 * np.exp(-5 * step / made.steps),
            "top1_running": 97.0,
            "top1_reestimated": 97.6,
        }
        for step in np.linspace(100, made.steps, 10).astype(int)
    ]


def trajectories(made, noise):
    steps, weights = np.arange(made.steps - 400, made.steps), 16
    centre = 0.5 + np.arange(weights) % 4 - 2
    swing = (np.arange(400)[:, None] * (1 + np.arange(weights)) * 0.07) % 1 - 0.5
    position = centre + 0.12 * swing + 0.01 * noise.standard_normal((400, weights))
    return {
        "steps": steps,
        "layer": np.array("blocks.3.conv_dw"),
        "index": np.arange(weights) * 11,
        "scale": np.full(400, 0.1, np.float32),
        "latent": (0.1 * position).astype(np.float32),
        "code": np.rint(position).astype(np.int8),
        "frequency": np.full((400, weights), 0.05, np.float32) * (1 + np.arange(weights)),
        "quant_min": np.array(-4),
        "quant_max": np.array(3),
    }


def diagnosis(made, noise):
    middles = np.linspace(-0.49, 0.49, 50)
    trees = []
    for place, (name, kind, weights, bits) in enumerate(made.layers):
        share = made.share(kind, place)
        density = 1 + 40 * share * (np.abs(middles) > 0.47) + 0.3 * noise.random(50)
        density += 25 * made.frozen * (np.abs(middles) < 0.02)  # on their code
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
        codes = np.arange(low, high)
        bell = np.exp(-((codes / high) ** 2) * 4)
        tree = _layer(made, place, (name, kind, weights, bits)) | {
            "kind": kind,
            "near_threshold": 0.02 + 0.6 * share,
            "offsets": {
                "edges": np.linspace(-0.5, 0.5, 51).tolist(),
                "counts": np.rint(weights * density / density.sum()).astype(int).tolist(),
            },
            "codes": {
                "code": codes.tolist(),
                "counts": np.rint(weights * bell / bell.sum()).astype(int).tolist(),
            },
        }
        trees.append(tree)
    norms = [
        {
            "name": f"{name}.bn",
            "feeds_from": name,
            "kind": kind,
            "channels": 16,
            "kl_mean": _kl(made, place, kind),
            "kl_max": 5 * _kl(made, place, kind),
        }
        for place, (name, kind, _, _) in enumerate(made.layers)
        if kind != "linear"
    ]
    accuracy = {
        "top1_percent": {"running": 97.2, "reestimated": 97.8},
        "train_loss": {"running": 0.047, "reestimated": 0.028},
    }
    head = {"version": 1, "step": made.steps, "cut": 0.005, "near": 0.01}
    return {**head, "layers": trees, "batchnorm": norms, "accuracy": accuracy}


def probe(made, noise):
    drawn = np.column_stack([0.05 + 0.01 * noise.random(20), 97 + noise.random(20)])
    return {
        "version": 1,
        "weights": 120,
        "samples": 20,
        "before": {"loss": 0.057, "top1_percent": 97.5},
        "sampled": {"each": drawn.tolist()},
        "learned": {"loss": 0.041, "top1_percent": 97.9, "changed": 37, "steps": 500},
    }
