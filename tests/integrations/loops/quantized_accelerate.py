"""Trains with Accelerate: accumulated gradients, clipping, checkpoints."""

from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs


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
    scheme = qs.Scheme(weight_bits=3, act_bits=4, grad_scaling=True)
    qs.prepare(model, scheme, example_input=data.tensors[0][:4])
    qs.calibrate(model, loader, count=4)
    optimizer = torch.optim.AdamW(
        qs.parameter_groups(model, weight_decay=0.01, scale_lr=1e-4), lr=1e-3
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    control = qs.Control(optimizer, weights, tracker, [qs.Dampening(1e-3), qs.Freezing(0.3)])
    accelerator.register_for_checkpointing(control)
    with TemporaryDirectory() as folder:
        for _ in range(2):
            for images, labels in loader:
                with accelerator.accumulate(model):
                    loss = cross_entropy(model(images), labels) + control.penalty()
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            accelerator.save_state(folder)
        accelerator.load_state(folder)
    return accelerator.unwrap_model(model)
