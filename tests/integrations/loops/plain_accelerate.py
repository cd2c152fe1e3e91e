"""Trains with Accelerate: accumulated gradients, clipping, checkpoints."""

from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


def main() -> nn.Module:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    data = TensorDataset(torch.rand(32, 3, 8, 8), torch.randint(0, 5, (32,)))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with TemporaryDirectory() as folder:
        for _ in range(2):
            for images, labels in loader:
                with accelerator.accumulate(model):
                    loss = cross_entropy(model(images), labels)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            accelerator.save_state(folder)
        accelerator.load_state(folder)
    return accelerator.unwrap_model(model)
