"""Trains a network of torchvision as its reference script does."""

import torch
import torchvision
from torch import nn

import quiesce as qs


def main() -> nn.Module:
    batches = [(torch.rand(4, 3, 32, 32), torch.randint(0, 10, (4,))) for _ in range(3)]
    model = torchvision.models.mobilenet_v3_small(num_classes=10)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    scheme = qs.Scheme(weight_bits=3, act_bits=4, grad_scaling=True)
    qs.prepare(model, scheme, example_input=batches[0][0])
    qs.calibrate(model, batches)
    groups = qs.parameter_groups(model, weight_decay=4e-5, scale_lr=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.1)
    control = qs.Control(optimizer, weights, tracker, [qs.Dampening(1e-3), qs.Freezing(0.3)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    for _ in range(2):
        model.train()
        for images, labels in batches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = criterion(model(images), labels)
            optimizer.zero_grad()
            (loss + control.penalty()).backward()
            optimizer.step()
        schedule.step()
    qs.reestimate_batchnorm(model, batches, count=3)
    model.eval()
    return model
