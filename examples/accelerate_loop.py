"""Train a 4-bit network in a loop with Accelerate, with gradient accumulation and a checkpoint.

A step of the tracker is a step of the optimizer: here one in two batches. Needs the extra hf. Run
it with `python examples/accelerate_loop.py`, or with `accelerate launch`.
"""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True)
network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
scheme = qs.Scheme(weight_bits=4, act_bits=None, first_last_bits=None, grad_scaling=True)
qs.prepare(network, scheme, inputs[:1])
groups = qs.parameter_groups(network, weight_decay=1e-4, scale_lr=1e-3)
optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)

accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
weights = qs.quantized_weights(network)
tracker = qs.OscillationTracker(weights, momentum=0.02)
control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.1)])
accelerator.register_for_checkpointing(control)  # save_state and load_state know it now

batches = 0
for _ in range(8):
    for x, y in loader:
        with accelerator.accumulate(network):
            loss = nn.functional.mse_loss(network(x), y) + control.penalty()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        batches += 1

folder = tempfile.mkdtemp()
accelerator.save_state(folder)
accelerator.print(f"{batches} batches, {control.step} optimizer steps; state in {folder}")
accelerator.print(tracker.summary())
