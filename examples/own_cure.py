"""Write a cure of your own: a subclass of `quiesce.Cure` that slows oscillating weights down.

`Control` calls it before and after every optimizer step, beside the cures of quiesce.
Run it with `python examples/own_cure.py`.
"""

import torch
from torch import nn

import quiesce as qs


class SlowDown(qs.Cure):
    """Weights that oscillate more often than `threshold` make only a part of each step."""

    def __init__(self, threshold: float, part: float) -> None:
        self.threshold, self.part = threshold, part

    def attach(self, weights, tracker):
        """Remember what the cure works on."""
        self.latents = {weight.name: weight.latent for weight in weights}
        self.tracker = tracker

    def before_step(self, step, rates):
        """Copy the weights, which the optimizer is about to move."""
        self.before = {name: each.detach().clone() for name, each in self.latents.items()}

    @torch.no_grad()
    def after_update(self, step):
        """Take back a part of the move, before the tracker reads the codes."""
        for name, where in self.tracker.oscillating(self.threshold).items():
            slow = torch.lerp(self.before[name], self.latents[name], self.part)
            self.latents[name].copy_(torch.where(where, slow, self.latents[name]))


torch.manual_seed(0)
inputs, hidden = torch.randn(2048, 32), torch.randn(32, 8)
targets = torch.tanh(inputs @ hidden)
results = {}
for name, cures in {"without": [], "with SlowDown": [SlowDown(threshold=0.01, part=0.05)]}.items():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=None, grad_scaling=True)
    qs.prepare(model, scheme, inputs[:1])
    groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-3)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.02)
    control = qs.Control(optimizer, weights, tracker, cures)
    for x, y in list(zip(inputs.split(64), targets.split(64), strict=True)) * 15:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    loss = nn.functional.mse_loss(model(inputs), targets).item()
    results[name] = (loss, tracker.summary().flips_per_step)
    print(f"{name:14} loss {loss:.4f}, {results[name][1]:.1f} codes change in a step")
