"""The stacks that `quiesce.attach` knows, and what works with each.

`make test-stacks` tests this with the versions in requirements/stacks.txt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A quantization toolkit, and what works when quiesce is attached to its networks."""

    name: str
    package: str
    """Its package on PyPI."""
    classes: str
    """The package of the classes of modules that only its networks have."""
    file: str
    """The module of quiesce that finds its weights."""
    tested: tuple[str, str]
    """The first version that works, and the first that has not been tested."""
    weights: str
    """Which weights are found."""
    compile: str
    """torch.compile of the prepared network: in one graph, with the stack's own graph breaks, or
    "no" (the stack does not compile)."""
    ddp: str
    """DistributedDataParallel."""
    fsdp2: str
    """fully_shard."""
    conversion: str
    """The conversion in which `before_convert` keeps all codes, and that `quiesce.audit` reads."""

    def made(self, module: nn.Module) -> bool:
        """Return whether the class of a module belongs to this stack."""
        return f"{type(module).__module__}.".startswith(f"{self.classes}.")

    @property
    def installed(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    @property
    def is_tested(self) -> bool:
        """Whether the installed version is in the tested range."""
        low, high = map(_numbers, self.tested)
        return low <= _numbers(self.installed or "") < high


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.42.0+cpu" gives (2, 42, 0)."""
    return tuple(int(each) for each in re.findall(r"\d+", text.partition("+")[0])[:3])


STACKS = (
    Stack(
        name="Brevitas",
        package="brevitas",
        classes="brevitas",
        file="quiesce.stacks.brevitas",
        tested=("0.13", "0.14"),
        weights="integers per tensor, channel or group, of statistics or learned scales",
        compile="fullgraph",
        ddp="yes",
        fsdp2="no",
        conversion="QCDQ ONNX",
    ),
    Stack(
        name="torchao quantize_",
        package="torchao",
        classes="torchao",
        file="quiesce.stacks.torchao_quantize",
        tested=("0.18", "0.19"),
        weights="linear and embedding, per channel or group; dynamic, fixed or learned scales",
        compile="fullgraph",
        ddp="yes",
        fsdp2="no",
        conversion="convert",
    ),
    Stack(
        name="torchao PT2E",
        package="torchao",
        classes="torchao",
        file="quiesce.stacks.torchao_pt2e",
        tested=("0.18", "0.19"),
        weights="per tensor or channel, also with folded batch norms (XNNPACK, X86 and others)",
        compile="fullgraph",
        ddp="yes",
        fsdp2="no",
        conversion="convert_pt2e",
    ),
    Stack(
        name="ModelOpt",
        package="nvidia-modelopt",
        classes="modelopt",
        file="quiesce.stacks.modelopt",
        tested=("0.47", "0.48"),
        weights="integers per tensor, channel or static block, with calibrated ranges",
        compile="graph breaks",
        ddp="yes",
        fsdp2="no",
        conversion="fold_weight",
    ),
    Stack(
        name="AIMET",
        package="aimet-torch",
        classes="aimet_torch",
        file="quiesce.stacks.aimet",
        tested=("2.42", "2.43"),
        weights="integers per tensor, channel or block, with learned ranges",
        compile="no",
        ddp="yes",
        fsdp2="no",
        conversion="sim.export",
    ),
)
