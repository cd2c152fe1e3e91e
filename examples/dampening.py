"""Train a 3-bit network with dampening of three strengths, on made-up data.

The penalty pulls latent weights to their grid points: the stronger, the fewer weights oscillate,
until it costs loss. Run it with `python examples/dampening.py`.
"""

import torch
from torch import nn

import quiesce as qs

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
inputs = torch.randn(2048, 32)
with torch.no_grad():
    targets = teacher(inputs)
batches = list(zip(inputs.split(64), targets.split(64), strict=True)) * 10  # 320 steps

results = {}
print("strength  loss    oscillating %  near a threshold %")
for strength in (0.0, 1e-3, 1e-2):
    torch.manual_seed(1)
    student = nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)
    )
    qs.prepare(student, qs.Scheme(weight_bits=3, act_bits=None, grad_scaling=True), inputs[:1])
    groups = qs.parameter_groups(student, weight_decay=1e-4, scale_lr=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    weights = qs.quantized_weights(student)
    tracker = qs.OscillationTracker(weights, momentum=0.02)
    # zero at the start, so that the weights can move; the full strength at the end
    dampening = qs.Dampening(qs.cosine(0.0, strength, total=len(batches)))
    control = qs.Control(optimizer, weights, tracker, [dampening])
    for x, y in batches:
        loss = nn.functional.mse_loss(student(x), y)
        optimizer.zero_grad()
        (loss + control.penalty()).backward()
        optimizer.step()
    with torch.no_grad():
        final = nn.functional.mse_loss(student(inputs), targets).item()
        middle = weights[1]  # the only layer with 3 bits: first and last ones get 8
        offsets = middle.latent / middle.scale - middle.codes()
        near = (offsets.abs() - 0.5).abs().lt(0.05).float().mean().item()
    found = tracker.report()[1]
    results[strength] = (final, found.oscillating, near)
    print(f"{strength:<8g}  {final:.4f} {100 * found.oscillating:14.1f} {100 * near:19.1f}")
