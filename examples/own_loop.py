"""Quantize a network to 3 bits and train it in a plain PyTorch loop, with dampening.

Shows the order of the calls: prepare, calibrate, optimizer, tracker, Control, loop, re-estimation.
Run it with `python examples/own_loop.py`.
"""

import torch
from torch.nn.functional import avg_pool2d, cross_entropy

import quiesce as qs
from quiesce.data import DataConfig, build_data
from quiesce.models.small_mobilenet import SmallMobileNetV2

torch.manual_seed(0)
data = build_data(DataConfig(augment="none", batch_size=64), seed=0)  # 5,000 digits
train = [(avg_pool2d(images, 2), labels) for images, labels in data.train]  # 16 x 16 pixels
test = [(avg_pool2d(images, 2), labels) for images, labels in data.test]


def top1(model):
    """Share of the test images with the right class, in percent."""
    model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in test)
    return 100 * right / sum(len(labels) for _, labels in test)


model = SmallMobileNetV2()  # your network
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
for _ in range(2):
    for images, labels in train:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
print(f"float: {top1(model):.1f} %")

scheme = qs.Scheme(weight_bits=3, act_bits=3, grad_scaling=True)
qs.prepare(model, scheme, example_input=train[0][0][:1])
qs.calibrate(model, train, count=8)
print(f"rounded to 3 bits, not trained: {top1(model):.1f} %")

# after prepare: the scales are parameters too
groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-4)
optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.05)
dampening = qs.Dampening(qs.cosine(0.0, 0.1, total=2 * len(train)), aggregation="kernel_mean")
control = qs.Control(optimizer, weights, tracker, cures=[dampening])
for _ in range(2):
    model.train()
    for images, labels in train:
        loss = cross_entropy(model(images), labels) + control.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # afterwards the tracker measures, and the cures act

qs.reestimate_batchnorm(model, train, count=50)
trained = top1(model)
print(f"trained with 3 bits: {trained:.1f} %")
print(tracker.summary())
