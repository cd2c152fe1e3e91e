"""Train a 3-bit network with Lightning: `QuiesceCallback` runs tracker, cures and penalty.

The LightningModule stays as it is. Needs the extra train. Run it with
`python examples/lightning_trainer.py`.
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs
from quiesce.lightning import QuiesceCallback

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)
EPOCHS = 8


class Task(pl.LightningModule):
    """An ordinary module; the network inside is prepared."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch, _):
        """Return the loss, without the penalty, which the callback adds."""
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        """Scales get a smaller learning rate and no weight decay."""
        groups = qs.parameter_groups(self.network, weight_decay=1e-4, scale_lr=1e-3)
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True)
qs.prepare(network, scheme, inputs[:1])
steps = EPOCHS * len(loader)
cures = [qs.Dampening(qs.cosine(0.0, 1e-3, total=steps)), qs.Freezing(0.1)]
callback = QuiesceCallback(cures, momentum=0.02)
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    callbacks=[callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Task(network), loader)
loss = nn.functional.mse_loss(network(inputs), targets).item()
print(f"loss {loss:.4f} after {trainer.global_step} steps")
print(callback.tracker.summary())
