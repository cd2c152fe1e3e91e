"""Quantize a network of timm and train it with timm's optimizer factory and schedule.

Shows what each layer gets, and which layers oscillate most. Needs the extra train. Run it with
`python examples/timm_network.py`.
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.data import DataConfig, build_data

torch.manual_seed(0)
data = build_data(DataConfig(augment="none", batch_size=64), seed=0)  # 5,000 digits
train, test = list(data.train), list(data.test)


def epoch(optimizer, schedule=None):
    """Train on every image once."""
    for step, (images, labels) in enumerate(train):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step_update(step)


# in place of these two lines: timm.create_model("mobilenetv3_small_100", pretrained=True, ...)
model = timm.create_model("test_efficientnet", num_classes=10, in_chans=1)
epoch(create_optimizer_v2(model, opt="adamw", lr=5e-3))

qs.prepare(model, qs.Scheme(weight_bits=4, act_bits=4, grad_scaling=True), train[0][0][:1])
qs.calibrate(model, train, count=4)
print(qs.describe(model))

optimizer = create_optimizer_v2(
    model,
    opt="adamw",
    lr=2e-3,
    param_group_fn=lambda model: qs.parameter_groups(model, 0.01, scale_lr=1e-4),
)
schedule = CosineLRScheduler(optimizer, t_initial=len(train), t_in_epochs=False)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.05)
control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.3)])
epoch(optimizer, schedule)

qs.reestimate_batchnorm(model, train, count=20)
model.eval()
with torch.no_grad():
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in test)
print(tracker.summary())
print(f"{right / 10:.1f} % of 1,000 test images right")
