"""Makes hls4ml projects of designs, and runs them in hls4ml's emulation with g++."""

import io
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from quiesce.errors import ExportError, first_line
from quiesce.export.graph.tracing import quiet
from quiesce.export.targets.hls4ml.rows import Design
from quiesce.extras import require

FEATURE = "writing an hls4ml project"
NAME = "network"
"""Name of the top function and of the files of a project."""
CONFIG = "hls4ml_config.yml"


class Project:
    """A design as an hls4ml project in a temporary folder.

    Args:
        design: The design.
        io_type: "io_parallel" or "io_stream".

    Raises:
        ExportError: hls4ml refuses it.
    """

    def __init__(self, design: Design, io_type: str) -> None:
        self._design = design
        self.path = _temporary(self) / "project"
        self._compiled = False
        with refusing("writes the project"):
            self.graph = _graph(design, io_type, self.path)
            self.graph.write()

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for a batch, (batch, numbers) each; inputs have channels last."""
        self._compile()
        arrays = _arrays(inputs)
        with refusing("runs the emulation"):
            found = self.graph.predict(arrays if len(arrays) > 1 else arrays[0])
        return _split(found, len(self._design.outputs), len(arrays[0]))

    def trace(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Return the outputs, and what every layer computes, (batch, numbers) each."""
        self._compile()
        arrays = _arrays(inputs)
        with refusing("runs the emulation"):
            found, traced = self.graph.trace(arrays if len(arrays) > 1 else arrays[0])
        count = len(arrays[0])
        flat = {name: np.asarray(each).reshape(count, -1) for name, each in traced.items()}
        return _split(found, len(self._design.outputs), count), flat

    def stored_weight(self, layer: str) -> np.ndarray:
        """Return the numbers of a weight as the project's file has them, float64, flat."""
        name = self.graph.graph[layer].weights["weight"].name
        text = (self.path / "firmware" / "weights" / f"{name}.txt").read_text("ascii")
        return np.array([float(each) for each in text.split(",") if each.strip()])

    def copy(self, path: Path) -> None:
        """Write the project to a path that does not exist, without compiled code."""
        shutil.copytree(self.path, path, ignore=shutil.ignore_patterns("*.so", "*.o"))
        _move(path, ".")

    def _compile(self) -> None:
        if not self._compiled:
            check_compiler()
            with refusing("compiles the project"):
                self.graph._compile()
            self._compiled = True


def check_compiler() -> None:
    """Check that there is a C++ compiler.

    Raises:
        ExportError: There is none.
    """
    if shutil.which("g++") is None:
        raise ExportError(
            "the emulation of hls4ml needs g++, which is not installed; install it (the package "
            "g++ of most systems), or export without verification"
        )


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Silence hls4ml, and turn its errors into one line."""
    told = io.StringIO()
    try:
        with quiet(), redirect_stdout(told), redirect_stderr(told):
            yield
    except Exception as error:  # hls4ml raises many kinds
        errors = [line for line in told.getvalue().splitlines() if "error" in line.lower()]
        reason = first_line(error) + (f": {errors[0].strip()}" if errors else "")
        raise ExportError(f"hls4ml fails when it {what} ({reason})") from error


def _graph(design: Design, io_type: str, path: Path) -> Any:
    require("hls4ml", FEATURE, "hls4ml")
    config = require("hls4ml.utils.config", FEATURE, "hls4ml").create_config(
        output_dir=str(path), project_name=NAME, backend="Vitis", io_type=io_type
    )
    model = {"Precision": {"default": "fixed<32,16>"}, "ReuseFactor": 1, "Strategy": "Latency"}
    config["HLSConfig"] = {"Model": model, "LayerName": design.config}
    graph = require("hls4ml.model.graph", FEATURE, "hls4ml").ModelGraph
    return graph.from_layer_list(config, design.layers, design.inputs, design.outputs)


def _temporary(owner: object) -> Path:
    """Return a new folder that is removed with its owner."""
    folder = Path(tempfile.mkdtemp(prefix="quiesce-hls4ml-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _arrays(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(array, dtype=np.float32) for array in inputs]


def _split(found: Any, outputs: int, count: int) -> list[np.ndarray]:
    arrays = [found] if outputs == 1 else list(found)
    return [np.asarray(array).reshape(count, -1) for array in arrays]


class _Linked:
    """A compiled copy of a project."""

    graph: Any = None

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        arrays = _arrays(inputs)
        with refusing("runs the emulation"):
            found = self.graph.predict(arrays if len(arrays) > 1 else arrays[0])
        return _split(found, len(self.graph.get_output_variables()), len(arrays[0]))


def opened(folder: Path) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Compile a copy of a written project, and return a function that runs it for a batch.

    Raises:
        ExportError: The folder is no project, or does not compile.
    """
    link = require("hls4ml.converters", FEATURE, "hls4ml").link_existing_project
    check_compiler()
    opening = _Linked()
    copy = _temporary(opening) / "project"
    with refusing(f"opens {folder}"):
        shutil.copytree(folder, copy)
        _move(copy, str(copy))
        opening.graph = link(str(copy))
        opening.graph.compile()
    return opening


def _move(project: Path, folder: str) -> None:
    """Write the folder of a project into its configuration."""
    path = project / CONFIG
    lines = path.read_text("utf-8").splitlines(keepends=True)
    moved = [f"OutputDir: {folder}\n" if line.startswith("OutputDir:") else line for line in lines]
    path.write_text("".join(moved), "utf-8")
