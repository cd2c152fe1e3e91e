"""Train a detector of torchvision with 4-bit weights and activations, on made-up pictures.

The detector takes lists of images and dicts of targets, and quiesce takes its batches as they are.
Needs the extra train. Run it with `python examples/detection.py`.
"""

import torch
import torchvision

import quiesce as qs

torch.manual_seed(0)


def picture():
    """Return a dark picture with a bright square, and its target."""
    x, y = torch.randint(20, 180, (2,)).tolist()
    image = 0.1 * torch.rand(3, 320, 320)
    image[:, y : y + 100, x : x + 100] += 0.8
    box = torch.tensor([[x, y, x + 100, y + 100]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.tensor([1])}


loader = [tuple(zip(*(picture() for _ in range(2)), strict=True)) for _ in range(6)]
model = torchvision.models.get_model(
    "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=2
)
qs.reestimate_batchnorm(model, loader, count=6)  # for these random weights; load trained ones
qs.prepare(model, qs.Scheme(weight_bits=4, act_bits=4, ranges="minmax"), list(loader[0][0]))
qs.calibrate(model, loader, count=2)

groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-4)
optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
weights = qs.quantized_weights(model)
tracker = qs.OscillationTracker(weights, momentum=0.1)
control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.4)])
model.train()
losses = []
for images, targets in loader:
    parts = model(list(images), list(targets))
    loss = sum(parts.values()) + control.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"step {control.step}: loss {losses[-1]:.2f}")

qs.reestimate_batchnorm(model, loader, count=len(loader))
print(tracker.summary())
