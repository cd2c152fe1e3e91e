"""Trains a network of timm with its factories and its average of weights."""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy

import quiesce as qs


def main() -> torch.nn.Module:
    batches = [(torch.rand(4, 3, 32, 32), torch.randint(0, 10, (4,))) for _ in range(3)]
    model = timm.create_model("test_efficientnet", num_classes=10)
    scheme = qs.Scheme(weight_bits=3, act_bits=4, grad_scaling=True)
    qs.prepare(model, scheme, example_input=batches[0][0])
    qs.calibrate(model, batches)
    groups = qs.parameter_groups(model, weight_decay=0.05, scale_lr=1e-4)
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=1e-3)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    control = qs.Control(optimizer, weights, tracker, [qs.Dampening(1e-3), qs.Freezing(0.3)])
    schedule = CosineLRScheduler(optimizer, t_initial=2)
    average = ModelEmaV3(model, decay=0.9)
    for epoch in range(2):
        model.train()
        for images, labels in batches:
            loss = cross_entropy(model(images), labels) + control.penalty()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model)
        schedule.step(epoch + 1)
    qs.copy_history(model, average.module)
    return average.module
