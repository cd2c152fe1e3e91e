"""The recipe: the complete configuration of a run, as one tree of frozen dataclasses.

The same tree defines the YAML file, the command-line flags, their help, and recipe.yaml in a run
folder. Defaults are the settings that the published recipes share.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from quiesce.data.config import DataConfig
from quiesce.files.atomic import in_home
from quiesce.files.untrusted.typed_trees import with_lists
from quiesce.models.build import ModelConfig
from quiesce.recipes.cure_section import CureConfig
from quiesce.recipes.sections import (
    BatchNormConfig,
    CalibrationConfig,
    FloatStageConfig,
    LrScheduleConfig,
    OptimizerConfig,
    RecordingConfig,
    SchemeConfig,
    TrackerConfig,
    check,
)
from quiesce.recipes.trainer_section import CheckpointConfig, TrainerConfig
from quiesce.user_code import is_user_code

VERSION = 1
"""Version of the recipe's format."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A quantization-aware training run, from the data to the finished network."""

    version: int = VERSION
    """Format version of the recipe: 1."""
    name: str
    """Name of the recipe; the default run folder contains it."""
    seed: int = 0
    """Seed of initial weights, image order and augmentation, 0 to 2^63 - 1."""
    run: str | None = None
    """Run folder, which must not exist yet; null means runs/<name>-seed<seed>."""
    compile: Literal["off", "quantizers", "model"] = "off"
    """What is compiled: off; quantizers and the operations on their weights (takes half a minute,
    worth it from a few hundred steps); or model, the whole forward and backward pass (takes
    minutes, has the fastest steps). See docs/performance.md."""
    metric: str | None = None
    """module:name of a function of yours that scores the outputs on all test images, besides top-1;
    see docs/how-to/own-data.md. null measures top-1 only."""
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
        named = self.metric is None or is_user_code(self.metric)
        check(named, "metric", "module:name of a function of yours, or null", self.metric)

    @property
    def user_code(self) -> dict[str, str]:
        """Fields that refer to user functions or classes, and their values."""
        values = {"data.name": self.data.name, "model.name": self.model.name, "metric": self.metric}
        return {field: name for field, name in values.items() if name and is_user_code(name)}

    @property
    def folder(self) -> Path:
        """The folder for the run's files."""
        return in_home(self.run) if self.run else Path("runs", f"{self.name}-seed{self.seed}")

    def tree(self) -> dict[str, Any]:
        """Return the recipe as nested dicts and lists, ready for YAML and JSON."""
        return with_lists(dataclasses.asdict(self))
