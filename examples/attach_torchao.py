"""Measure and freeze oscillating int4 weights of torchao's quantize_, convert, and audit.

The frozen codes survive the conversion, and `audit` counts those that do not. Needs the package
torchao. Run it with `python examples/attach_torchao.py`.
"""

import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

import quiesce

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
fake = IntxFakeQuantizeConfig(torch.int4, group_size=32)
quantize_(model, QATConfig(weight_config=fake, step="prepare"))

weights = quiesce.attach(model)
tracker = quiesce.OscillationTracker(weights, momentum=0.02)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
freezing = quiesce.Freezing(0.05, max_frozen=0.9)
control = quiesce.Control(optimizer, weights, tracker, [freezing])
for x, y in list(zip(inputs.split(64), targets.split(64), strict=True)) * 10:
    loss = nn.functional.mse_loss(model(x), y) + control.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(tracker.summary())

weights.before_convert()
final = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
quantize_(model, QATConfig(final, step="convert"))
audit = quiesce.audit(weights, model)
print(audit)
