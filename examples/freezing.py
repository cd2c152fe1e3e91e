"""Train the same 3-bit network with plain LSQ and with freezing, and compare the two.

Prints accuracy before and after batch norms are measured again, and oscillating and frozen shares.
Run it with `python examples/freezing.py`.
"""

import copy

import torch
from torch.nn.functional import avg_pool2d, cross_entropy

import quiesce as qs
from quiesce.data import DataConfig, build_data
from quiesce.models.small_mobilenet import SmallMobileNetV2

torch.manual_seed(0)
data = build_data(DataConfig(augment="none", batch_size=64), seed=0)  # 5,000 digits
train = [(avg_pool2d(images, 2), labels) for images, labels in data.train]  # 16 x 16 pixels
test = [(avg_pool2d(images, 2), labels) for images, labels in data.test]


def top1(model):  # in percent
    model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in test)
    return right / 10  # of 1,000 images


start = SmallMobileNetV2()
optimizer = torch.optim.AdamW(start.parameters(), lr=0.005)
for images, labels in train * 2:
    optimizer.zero_grad()
    cross_entropy(start(images), labels).backward()
    optimizer.step()

threshold = qs.cosine(0.2, 0.04, total=2 * len(train))  # oscillations per step
methods = {"LSQ": [], "freezing": [qs.Freezing(threshold, max_frozen=0.8)]}
results = {}
print("method     top-1  re-estimated  oscillating  frozen  (in %; the last two of 3-bit weights)")
for name, cures in methods.items():
    model = copy.deepcopy(start)
    qs.prepare(model, qs.Scheme(weight_bits=3, act_bits=3, grad_scaling=True), train[0][0][:1])
    qs.calibrate(model, train, count=8)
    groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights, momentum=0.05)
    control = qs.Control(optimizer, weights, tracker, cures)
    for images, labels in train * 2:
        optimizer.zero_grad()
        cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    before, oscillate = top1(model), tracker.oscillating()
    qs.reestimate_batchnorm(model, train, count=50)
    low = [weight for weight in weights if weight.grid.bits == 3]
    total = sum(weight.frozen.numel() for weight in low) / 100
    free = sum(int((oscillate[weight.name] & ~weight.frozen).sum()) for weight in low) / total
    frozen = sum(int(weight.frozen.sum()) for weight in low) / total
    results[name] = (before, top1(model), free, frozen)
    print("{:10} {:5.1f} {:13.1f} {:12.1f} {:7.1f}".format(name, *results[name]))
