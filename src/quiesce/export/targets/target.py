"""The interface of a target: what it takes, how a file is written, and what runs it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import nn

from quiesce.errors import MissingExtraError
from quiesce.export.biases.layer_integers import (
    InputGrid,
    LayerIntegers,
    read_inputs,
    read_integers,
)
from quiesce.export.graph.folded_graph import Folded, fold
from quiesce.export.interface import Example
from quiesce.export.packing import DEFAULT_OPSET
from quiesce.export.verification.comparison import Candidate

Run: TypeAlias = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Runs a file: from its inputs to its outputs, by name; the first dimension is the batch."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a target needs."""

    name: str
    """Name on the package index."""
    tested: str
    """The version that our tests run, such as "1.0"; its further parts may differ."""

    @property
    def installed(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.name)
        except PackageNotFoundError:
            return None

    @property
    def untested(self) -> bool:
        """Whether another version is installed than our tests run."""
        found = self.installed
        return found is not None and not f"{found}.".startswith(f"{self.tested}.")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a target does not take."""

    layer: str
    """Name of the layer."""
    problem: str
    """What it is."""
    instead: str
    """The nearest scheme, or change, that works."""

    def __str__(self) -> str:
        return f"{self.layer}: {self.problem}; {self.instead}"


class Network:
    """A prepared network to write for a target.

    Args:
        model: The network; with rounded biases if the target needs them.
        example: Arguments of the network.
        rounded_biases: Whether `model` is a copy made by `with_rounded_biases`.
    """

    def __init__(self, model: nn.Module, example: Example, *, rounded_biases: bool = False) -> None:
        self.model = model
        self.example = example
        self.rounded_biases = rounded_biases

    @cached_property
    def layers(self) -> dict[str, LayerIntegers]:
        """The quantized layers, by name."""
        return read_integers(self.model)

    @cached_property
    def grids(self) -> dict[str, InputGrid]:
        """The grids of the quantized inputs, by the names of their locations."""
        return read_inputs(self.model)

    @cached_property
    def folded(self) -> Folded:
        """The traced graph with folded batch norms and activations; do not change it."""
        return fold(self.model, self.example, DEFAULT_OPSET)


class File(ABC):
    """A network in the format of a target, in memory, before it is verified and written."""

    @abstractmethod
    def candidate(self, model: nn.Module, where: str | Path, allowed: float) -> Candidate:
        """Return the file as something to compare with the trained network.

        Args:
            model: The trained network.
            where: Name of the file in error messages.
            allowed: Share of the codes of a layer that may differ.
        """

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the file, or the folder, to a path that does not exist."""

    def notes(self) -> list[str]:
        """Return lines about the file for the user."""
        return []


class Target(ABC):
    """A runtime or tool that takes a network."""

    name: ClassVar[str]
    """Name after `--target`, and of the extra that installs it."""
    what: ClassVar[str]
    """What it writes, in a few words."""
    takes: ClassVar[str]
    """The schemes that it takes, in a few words."""
    suffix: ClassVar[str]
    """Ending of its files; "" for a folder."""
    packages: ClassVar[tuple[Package, ...]]
    """The packages that it needs."""
    install: ClassVar[str]
    """The line that installs them."""
    rounds_biases: ClassVar[bool] = False
    """Whether biases are rounded to integers unless the user says otherwise."""
    allows: ClassVar[float] = 0.0
    """Share of the codes of a layer that may differ unless the user says otherwise."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Names of further arguments of `build`."""

    @abstractmethod
    def check(self, network: Network) -> list[Refusal]:
        """Return what the target does not take; needs none of its packages.

        Args:
            network: A prepared network, trained or not.
        """

    @abstractmethod
    def build(self, network: Network, **options: Any) -> File:
        """Return the network in the format of the target.

        Raises:
            ExportError: A tool of the target refuses it.
        """

    @abstractmethod
    def load(self, path: Path) -> Run:
        """Return a function that runs a written file in the runtime of the target."""

    @property
    def missing(self) -> list[str]:
        """Names of the packages that are not installed."""
        return [each.name for each in self.packages if each.installed is None]

    @property
    def untested(self) -> list[str]:
        """One text for each package of which another version is installed than our tests run."""
        return [
            f"{each.name} {each.installed} is untested with quiesce, which is tested with "
            f"{each.tested}"
            for each in self.packages
            if each.untested
        ]

    def require(self) -> None:
        """Check that the packages are installed.

        Raises:
            MissingExtraError: One is not; the message has the line that installs it.
        """
        if missing := self.missing:
            raise MissingExtraError(
                f"the target {self.name} ({', '.join(missing)})", self.name, self.install
            )

    def facts(self) -> Mapping[str, Any]:
        """Return what `quiesce targets --json` prints."""
        return {
            "target": self.name,
            "what": self.what,
            "takes": self.takes,
            "installed": not self.missing,
            "packages": {each.name: each.installed for each in self.packages},
            "tested": {each.name: each.tested for each in self.packages},
            "install": self.install,
            "rounds_biases": self.rounds_biases,
        }
