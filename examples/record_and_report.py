"""Record a loop of your own in a folder, and make the diagnosis and the HTML page of it.

Recording changes no weight and no random number. Needs the extra all. Run it with
`python examples/record_and_report.py`.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import quiesce as qs
from quiesce.cli import main

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
batches = list(zip(inputs.split(64), targets.split(64), strict=True)) * 10  # 320 steps
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True)
qs.prepare(model, scheme, inputs[:1])
groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3)
optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.02)
freezing = qs.Freezing(qs.cosine(0.2, 0.05, total=len(batches)), max_frozen=0.8)
control = qs.Control(optimizer, weights, tracker, [freezing])

folder = Path(tempfile.mkdtemp()) / "mine"
with qs.record(control, folder, every=20) as recording:
    for x, y in batches:
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recording.log(loss=loss)

print("files:", ", ".join(sorted(path.name for path in folder.iterdir())))
main(["diagnose", str(folder)])  # on the command line: quiesce diagnose FOLDER
main(["report", str(folder), "-o", str(folder.parent / "report.html")])
