"""A user's training script for torchrun: goes on from its last checkpoint, and dies once if told.

torchrun ... elastic_script.py FOLDER [STEP]
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import quiesce as qs
from quiesce.data.sampling import EpochSampler
from quiesce.lightning import QuiesceCallback
from small_networks import prepared_network


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.model = prepared_network()

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return (self.model(batch[:, :108].view(-1, 3, 6, 6)) - batch[:, 108:]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.5)

    def train_dataloader(self) -> Any:
        rows = torch.randn(64, 113, generator=torch.Generator().manual_seed(3))
        return DataLoader(Rows(rows), batch_size=8, sampler=EpochSampler(len(rows), seed=1))


class Rows(Dataset[Tensor]):
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return self.rows[key[1]]

    def __len__(self) -> int:
        return len(self.rows)


class Accident(Callback):
    """The guest, agent and process, is gone in the middle of an epoch, the first time."""

    def __init__(self, step: int, marker: Path) -> None:
        self.step, self.marker = step, marker

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        guest = os.environ.get("QUIESCE_TEST_GUEST")
        if guest and trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, accident_at: int | None) -> None:
    torch.set_num_threads(1)
    callback = QuiesceCallback([qs.Freezing(0.1, max_frozen=None)], momentum=0.05, verify_every=1)
    saving = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    accidents = [] if accident_at is None else [Accident(accident_at, folder / "accident")]
    last = folder / "last.ckpt"
    started_at = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=int(os.environ["GROUP_WORLD_SIZE"]),
        strategy="ddp",
        max_epochs=5,
        callbacks=[callback, saving, *accidents],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = Module()
    trainer.fit(module, ckpt_path=last if last.exists() else None)
    assert callback.control is not None
    rank = trainer.global_rank
    torch.save(
        {"model": module.state_dict(), "control": callback.control.state_dict()},
        folder / f"end{rank}.pt",
    )
    told = {"started_at": started_at, "steps": callback.control.step}
    (folder / f"end{rank}.json").write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
