"""Save a training in the middle, load it into new objects, and end with the same bits.

All state is in three `state_dict`s: of the model, of the optimizer and of `Control`.
Run it with `python examples/resume.py`.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import quiesce as qs

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
batches = list(zip(inputs.split(64), targets.split(64), strict=True)) * 4  # 128 steps
MIDDLE = len(batches) // 2


def make():
    """Everything that a new process makes before it loads."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True)
    qs.prepare(model, scheme, inputs[:1])
    groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    weights = qs.quantized_weights(model)
    freezing = qs.Freezing(qs.cosine(0.3, 0.1, total=len(batches)))
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    return model, optimizer, qs.Control(optimizer, weights, tracker, [freezing])


def train(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


file = Path(tempfile.mkdtemp()) / "checkpoint.pt"
model, optimizer, control = make()
train(model, optimizer, batches[:MIDDLE])
torch.save([part.state_dict() for part in (model, optimizer, control)], file)
train(model, optimizer, batches[MIDDLE:])

again = make()
for part, state in zip(again, torch.load(file), strict=True):  # control last
    part.load_state_dict(state)
train(*again[:2], batches[MIDDLE:])

pairs = list(zip(model.state_dict().items(), again[0].state_dict().values(), strict=True))
equal = all(torch.equal(one, other) for (_, one), other in pairs)
print(f"{len(pairs)} tensors after {control.step} steps, all equal bit for bit: {equal}")
print(again[2].tracker.summary())
