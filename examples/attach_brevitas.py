"""Measure and freeze oscillating weights of a Brevitas network, export it, and audit the file.

The lines of quiesce are few: `attach`, tracker, cures, `Control`, `before_convert` and `audit`.
Needs the package brevitas. Run it with `python examples/attach_brevitas.py`.
"""

import tempfile
from pathlib import Path

import brevitas.nn as qnn
import torch
from brevitas.export import export_onnx_qcdq
from brevitas.quant import Int8WeightPerChannelFloat
from torch import nn

import quiesce

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
options = {"bias": True, "weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 3}
model = nn.Sequential(
    qnn.QuantLinear(32, 64, **options), nn.ReLU(), qnn.QuantLinear(64, 8, **options)
)

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

file = Path(tempfile.mkdtemp()) / "brevitas.onnx"
weights.before_convert()  # the hooks must not become part of the file
export_onnx_qcdq(
    model.eval(), args=inputs[:1], export_path=str(file), dynamo=False, opset_version=17
)
audit = quiesce.audit(weights, str(file))
print(audit)
