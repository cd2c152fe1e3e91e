"""Keep an exponential average of a 3-bit network in training, and compare it with the network.

`WeightAverage` averages latent weights and scales, and keeps the codes that freezing has fixed.
Run it with `python examples/average.py`.
"""

import torch
from torch import nn

import quiesce as qs

torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
batches = list(zip(inputs.split(64), targets.split(64), strict=True)) * 15  # 480 steps
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True)
qs.prepare(model, scheme, inputs[:1])
groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3)
optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.02)
control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.06)])
average = qs.WeightAverage(model, decay=0.97)  # after prepare; averages over some 30 steps

for x, y in batches:
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    average.update_parameters(model)

losses = {}
with torch.no_grad():
    for name, network in {"last step": model, "average": average}.items():
        losses[name] = nn.functional.mse_loss(network(inputs), targets).item()
        print(f"loss of the {name}: {losses[name]:.4f}")

pairs = list(zip(weights, qs.quantized_weights(average.module), strict=True))
different = sum(int((one.codes() != other.codes()).sum()) for one, other in pairs)
lost = sum(int((one.codes() != other.codes())[one.frozen].sum()) for one, other in pairs)
frozen = sum(int(one.frozen.sum()) for one, _ in pairs)
print(f"{different} codes of the average differ; of the {frozen} frozen ones {lost}")
plain = qs.strip(average)  # a float network with the quantized weights
