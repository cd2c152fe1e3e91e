"""Train int4 weights with one float16 scale for each group of 32 inputs, and write packed int4.

Compares the rounding error of a scale per tensor, per channel and per group before that. Needs the
extra onnx. Run it with `python examples/groups_int4.py`.
"""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

import quiesce as qs
from quiesce.data import DataConfig, build_data

torch.manual_seed(0)
data = build_data(DataConfig(augment="none", batch_size=64), seed=0)  # 5,000 digits, 32 x 32
train, test = list(data.train), list(data.test)
model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def epoch(model, optimizer):
    for images, labels in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


for _ in range(2):
    epoch(model, torch.optim.AdamW(model.parameters(), lr=1e-3))

errors = {}
for name, options in {
    "per tensor": {},
    "per channel": {"per_channel": True},
    "groups of 32": {"group_size": 32, "scale_dtype": "float16"},
}.items():
    rounded = copy.deepcopy(model)
    scheme = qs.Scheme(weight_bits=4, act_bits=None, first_last_bits=None, **options)
    qs.prepare(rounded, scheme, train[0][0][:1])
    weight = qs.quantized_weights(rounded)[0]
    errors[name] = ((weight.quantized() - weight.latent).norm() / weight.latent.norm()).item()
    print(f"{name:12} rounding error {100 * errors[name]:.1f} % of the weights")

groups = qs.parameter_groups(rounded, weight_decay=1e-4, scale_lr=1e-5)
optimizer = torch.optim.AdamW(groups, lr=1e-4)
weights = qs.quantized_weights(rounded)
tracker = qs.OscillationTracker(weights)
qs.Control(optimizer, weights, tracker)
epoch(rounded, optimizer)
right = sum((rounded(images).argmax(1) == labels).sum().item() for images, labels in test)
print(tracker.summary())

path = Path(tempfile.mkdtemp()) / "int4.onnx"
exported = qs.export_onnx(rounded, path, test[0][0], pack="int4")
print(f"{right / 10:.1f} % right; {path}: {exported.size / 1e3:.0f} kB (float: 526 kB)")
