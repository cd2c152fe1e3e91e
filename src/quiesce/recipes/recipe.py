"""The recipe: everything that decides a run, as one tree of frozen dataclasses.

The same tree is the YAML file, the flags of the command line, their help, and what a run folder
keeps as recipe.yaml. Defaults are the settings that the published recipes share.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from quiesce.data.config import DataConfig
from quiesce.files.atomic import in_home
from quiesce.models.build import ModelConfig
from quiesce.recipes.sections import (
    BatchNormConfig,
    CalibrationConfig,
    CureConfig,
    FloatStageConfig,
    LrScheduleConfig,
    OptimizerConfig,
    RecordingConfig,
    SchemeConfig,
    TrackerConfig,
    check,
)
from quiesce.recipes.trainer_section import CheckpointConfig, TrainerConfig

VERSION = 1
"""Version of the recipe's format."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A quantization-aware training run, from the data to the finished network."""

    version: int = VERSION
    """Version of this file's format: 1."""

    name: str
    """Name of the recipe; part of the default run folder."""

    seed: int = 0
    """Seed of weights, order of images and augmentation, 0 to 2^63 - 1."""

    run: str | None = None
    """Folder that the run makes, which must not exist; null means runs/<name>-seed<seed>."""

    compile: Literal["off", "quantizers", "model"] = "off"
    """What is compiled into fused kernels: nothing, the quantizers and what follows their weights
    (half a minute, once; pays from some hundred steps on), or the whole forward and backward
    (minutes; the fastest steps). docs/performance.md has 500 steps in each."""

    data: DataConfig = field(default_factory=DataConfig)

    model: ModelConfig = field(default_factory=ModelConfig)

    float_stage: FloatStageConfig = field(default_factory=FloatStageConfig)

    scheme: SchemeConfig = field(default_factory=SchemeConfig)

    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    cure: CureConfig = field(default_factory=CureConfig)

    weights_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    scales_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(kind="adam", lr=1e-5)
    )

    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)

    batchnorm: BatchNormConfig = field(default_factory=BatchNormConfig)

    recording: RecordingConfig = field(default_factory=RecordingConfig)

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        check(self.version == VERSION, "version", f"{VERSION} for this quiesce", self.version)
        plain = self.name and self.name.isprintable() and self.name == Path(self.name).name
        check(bool(plain), "name", "a word without slashes", repr(self.name))
        check(0 <= self.seed < 2**63, "seed", "0 to 2^63 - 1", self.seed)

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return in_home(self.run) if self.run else Path("runs", f"{self.name}-seed{self.seed}")

    def tree(self) -> dict[str, Any]:
        """Return the recipe as nested dicts and lists, ready for YAML and JSON."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    """Tuples to lists, all the way down: YAML and JSON know no tuple."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
