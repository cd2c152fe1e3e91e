"""The report in a project: how inputs become codes, and the bits of every accumulator."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError
from quiesce.export.biases.layer_integers import InputGrid
from quiesce.export.targets.hls4ml.emulation import channels_last, to_codes
from quiesce.export.targets.hls4ml.network_in_codes import InCodes, Shape
from quiesce.export.targets.hls4ml.rows import Design
from quiesce.files.untrusted.yaml_and_json import read_json
from quiesce.text_table import table

REPORT = "quiesce.json"
TABLE = "accumulators.txt"


@dataclass(frozen=True)
class ReportedInput:
    """An input of a project."""

    grid: InputGrid
    shape: Shape

    def codes_of(self, values: np.ndarray) -> np.ndarray:
        """Return float32 (batch, ...) values, channels first, as the codes that a project takes."""
        return channels_last(to_codes(values, self.grid), self.shape)


@dataclass(frozen=True)
class Reported:
    """What a program needs to run a project."""

    inputs: list[ReportedInput]
    output: str
    shape: Shape


def report_of(network: InCodes, design: Design) -> dict[str, Any]:
    """Return what `quiesce.json` holds."""
    inputs = [name for name, values in network.values.items() if values.origin is None]
    grids = {name: network.codes[name].grid for name in inputs}
    output = network.output
    return {
        "version": 1,
        "rule": "clip(round_half_even(x / scale), low, high), channels last",
        "inputs": [
            {
                "name": layer,
                "bits": grids[name].bits,
                "low": grids[name].low,
                "high": grids[name].high,
                "scale": float(grids[name].scale),
                "shape": list(network.values[name].shape),
            }
            for name, layer in zip(inputs, design.inputs, strict=True)
        ],
        "output": {
            "name": network.output_name,
            "shape": [] if output is None else list(output.shape),
        },
        "codes": design.codes,
        "accumulators": [asdict(each) for each in design.accumulators],
        "rescalings": [asdict(each) for each in design.rescalings],
    }


def table_of(design: Design) -> str:
    """Return the bits of every accumulator, and of every acc*m + b, as text."""
    sums = [("accumulator", "of", "bits", "fraction", "lowest", "highest")]
    sums += [
        (each.layer, each.what, *map(str, (each.bits, each.fraction, each.low, each.high)))
        for each in design.accumulators
    ]
    maps = [("acc*m + b after", "gives", "m", "b", "fraction", "result")]
    maps += [
        (each.after, each.gives, each.scale, each.bias, str(each.fraction), each.result)
        for each in design.rescalings
    ]
    return "\n\n".join(table(rows) for rows in (sums, maps)) + "\n"


def read_report(folder: Path) -> Reported:
    """Return the report of a project.

    Raises:
        ExportError: The folder has no such file, or it is damaged.
    """
    path = folder / REPORT
    try:
        read = read_json(path)
        inputs = [
            ReportedInput(
                InputGrid(
                    bits=int(each["bits"]),
                    low=int(each["low"]),
                    high=int(each["high"]),
                    scale=np.float32(each["scale"]),
                    offset=None,
                ),
                tuple(map(int, each["shape"])),
            )
            for each in read["inputs"]
        ]
        output = read["output"]
        return Reported(inputs, str(output["name"]), tuple(map(int, output["shape"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not the report of an hls4ml project of quiesce ({error}); export it again"
        ) from error
