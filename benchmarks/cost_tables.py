"""The tables of docs/how-to/cluster.md about the cost of the ImageNet recipes.

They multiply the counts of results/costs.json with what is assumed about devices, here.
"""

import json
from statistics import median
from typing import Any

from measuring import RESULTS

TITLES = {
    "mobilenetv2_100": "MobileNetV2",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
    "mobilenetv3_small_100": "MobileNetV3-Small",
    "resnet18": "ResNet-18",
}
WAYS = {"float": "float", "lsq, quantizers": "LSQ", "freezing, quantizers": "LSQ, freezing"}

# Assumed: data sheets (dense TF32, memory of the SXM versions), and the shares of them in use.
DEVICES = {"A100": (156e12, 2.039e12), "H100": (494e12, 3.35e12)}
"""Operations and bytes per second."""
OF_OPERATIONS = 0.35
OF_BYTES = 0.6
SCALING = 0.9
"""Rate of eight devices, divided by eight times the rate of one."""
IMAGES = 1_281_167
TEST_IMAGES = 50_000
FILE_BYTES = 110_000
"""Mean size of a training image of ImageNet."""
FORWARD = 1 / 3
"""Time of a picture in evaluation, relative to training."""
RUNS = 50
"""10 seeds of 5 methods."""

Row = tuple[str, ...]


def per_step(network: dict[str, Any], way: str, what: str) -> float:
    """Return a count for a step of the recipe's batch."""
    kind, _, mode = way.partition(", ")
    base = network["float" if kind == "float" else f"lsq, {mode}"][what]
    count = base["image"] * network["batch"] + base["step"]
    if kind == "freezing":
        count += median(network[f"freezing adds, {mode}"][what])
    return count


def rate(network: dict[str, Any], way: str, device: str) -> float:
    """Return pictures per second on a device, if nothing overlaps."""
    operations, moved = DEVICES[device]
    seconds = per_step(network, way, "flops") / (OF_OPERATIONS * operations)
    seconds += per_step(network, way, "bytes") / (OF_BYTES * moved)
    return network["batch"] / seconds


def counts(networks: dict[str, Any]) -> list[Row]:
    """Return a row for each network and way: what a step does."""
    table: list[Row] = [
        ("", "batch", "G operations", "G elements", "GB, separate kernels", "GB, fused quantizers")
    ]
    for name, network in networks.items():
        for way, title in WAYS.items():
            separate = way.replace("quantizers", "off")
            numbers = [
                per_step(network, way, "flops") / 1e9,
                per_step(network, way, "elements") / 1e9,
                per_step(network, separate, "bytes") / 1e9,
                per_step(network, way, "bytes") / 1e9,
            ]
            cells = [f"{numbers[0]:.0f}", *(f"{number:.2f}" for number in numbers[1:])]
            table.append((f"{TITLES[name]}, {title}", str(network["batch"]), *cells))
    return table


def rates(networks: dict[str, Any], cores: float) -> list[Row]:
    """Return a row for each network and way: pictures a second, and what feeds them."""
    head = ("", *DEVICES, "8 H100", "MB/s from disk, 8 H100", "cores to decode, 8 H100")
    table: list[Row] = [head]
    for name, network in networks.items():
        for way, title in WAYS.items():
            speeds = [rate(network, way, device) for device in DEVICES]
            eight = 8 * SCALING * rate(network, way, "H100")
            numbers = [*speeds, eight, eight * FILE_BYTES / 1e6, eight / cores]
            table.append((f"{TITLES[name]}, {title}", *(f"{number:,.0f}" for number in numbers)))
    return table


def studies(networks: dict[str, Any]) -> list[Row]:
    """Return a row for each recipe: device hours of a run and of a study."""
    table: list[Row] = [
        ("recipe", "epochs", "A100 hours a run", "H100 hours a run", "A100 study", "H100 study")
    ]
    for network in networks.values():
        pictures = network["epochs"] * (IMAGES + FORWARD * TEST_IMAGES)
        hours = [
            pictures / rate(network, "freezing, quantizers", device) / 3600 for device in DEVICES
        ]
        numbers = [f"{number:,.0f}" for number in (*hours, *(RUNS * each for each in hours))]
        table.append((f"`{network['recipe']}`", str(network["epochs"]), *numbers))
    return table


def tables() -> dict[str, list[Row]]:
    """Return all tables, by name."""
    networks = json.loads((RESULTS / "costs.json").read_text())["networks"]
    measured = json.loads((RESULTS / "data.json").read_text())
    return {
        "step_costs": counts(networks),
        "device_rates": rates(networks, measured["batches"]["pictures_per_s"]["folder"]),
        "study_costs": studies(networks),
        "data_rates": sources(measured),
        "limits": limits(json.loads((RESULTS / "limits.json").read_text())),
    }


def sources(measured: dict[str, Any]) -> list[Row]:
    """Return a row for each source: pictures a second, and their share of bare PIL's."""
    table: list[Row] = [("", "decoding", "of bare PIL", "batches", "of bare PIL")]
    for name in ("PIL", "folder", "huggingface", "webdataset"):
        cells = []
        for what in ("decoding", "batches"):
            share = measured[what]["of_PIL"].get(name)
            cells.append(f"{measured[what]['pictures_per_s'][name]:.0f}")
            cells.append("" if share is None else f"{share:.2f}")
        table.append(("bare PIL" if name == "PIL" else f"`{name}`", *cells))
    return table


def limits(measured: dict[str, Any]) -> list[Row]:
    """Return a row for each number of benchmarks/limits.py."""
    size, checkpoint = (measured["run_bytes"][each] / 1e6 for each in ("folder", "checkpoint"))
    table: list[Row] = [
        ("what", ""),
        ("folder of a run of MobileNetV2", f"{size:.0f} MB"),
        ("1,000 such folders", f"{size:.0f} GB"),
        ("a checkpoint of it", f"{checkpoint:.0f} MB"),
        ("the same checkpoint, read by 1,000 ranks", f"{checkpoint:.0f} GB"),
    ]
    for tries, seconds in measured["seconds_a_try"].items():
        what = f"asking for a try and telling its result, after {int(tries):,} tries"
        table.append((what, f"{1000 * seconds:.0f} ms"))
    return table
