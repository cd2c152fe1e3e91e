"""Train a small 3-bit network with six estimators of the gradient, or rounding rules, of weights.

`Scheme(estimator=...)` is the only line that changes. Run it with `python examples/estimators.py`.
"""

import torch
from torch import nn

import quiesce as qs

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
batches = list(zip(inputs.split(64), targets.split(64), strict=True)) * 10  # 320 steps
ESTIMATORS = [
    qs.STE(),  # the straight-through estimator
    qs.EWGS(delta=0.2),  # gradients scaled by the rounding error
    qs.DSQ(alpha=0.4),  # the gradient of a soft staircase
    qs.Hysteresis(width=0.5),  # a dead band around each threshold
    qs.QEMA(beta=0.99),  # rounds by an average of past weights
    qs.StochasticRounding(),  # rounds at random in training
]

results = {}
print("estimator                loss    oscillating %  flips/step")
for estimator in ESTIMATORS:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    scheme = qs.Scheme(
        weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True, estimator=estimator
    )
    qs.prepare(model, scheme, inputs[:1])
    groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.02)
    qs.Control(optimizer, weights, tracker)  # without cures: no estimator stops an oscillation
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    loss = nn.functional.mse_loss(model.eval()(inputs), targets).item()
    found = tracker.summary()
    name = type(estimator).__name__
    results[name] = (loss, found.oscillating)
    print(f"{name:22} {loss:.4f} {100 * found.oscillating:16.1f} {found.flips_per_step:11.1f}")
