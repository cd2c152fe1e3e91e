"""The loader's state inside Lightning's checkpoints: stopped in mid-epoch, the images go on."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from quiesce.data import DataConfig, build_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),  # Lightning's use of torch
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
CONFIG = DataConfig(name="made_up", train_images=40, batch_size=8, image_size=8, workers=1)


class Recorder(lightning.LightningModule):
    """Notes the sum of every batch that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.append(float(batch[0].double().sum()))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, *, resume: Path | None = None, **options) -> list[float]:
    """Train for 12 steps, keep a checkpoint of each, and return what was seen."""
    recorder = Recorder()
    each_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[each_step],
        max_steps=12,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(recorder, build_data(CONFIG, seed=2).train, ckpt_path=resume)
    return recorder.seen


@pytest.mark.parametrize("limit", [1.0, 3])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_a_resumed_run_sees_the_images_of_one_that_was_not_stopped(
    stop: int, limit: float | int, tmp_path
) -> None:
    options = {"limit_train_batches": limit}  # five steps an epoch, or three of them
    whole = fit(tmp_path, **options)
    resume = tmp_path / f"step={stop}.ckpt"
    after = fit(tmp_path, resume=resume, **options)
    assert len(set(whole)) == 12
    assert after == whole[stop:]
