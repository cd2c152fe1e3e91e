"""Export a trained 4-bit network as an ONNX file of integers, verify it, and run it.

The file is compared with the network layer by layer, code by code, before it is written. Needs the
extra onnx. Run it with `python examples/export_onnx.py`.
"""

import tempfile
from pathlib import Path

import onnxruntime
import torch
from torch.nn.functional import avg_pool2d, cross_entropy

import quiesce as qs
from quiesce.data import DataConfig, build_data
from quiesce.models.small_mobilenet import SmallMobileNetV2

torch.manual_seed(0)
data = build_data(DataConfig(augment="none", batch_size=64), seed=0)  # 5,000 digits
train = [(avg_pool2d(images, 2), labels) for images, labels in data.train]  # 16 x 16 pixels
test = [(avg_pool2d(images, 2), labels) for images, labels in data.test]
model = SmallMobileNetV2()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)


def epoch():
    for images, labels in train:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


epoch()
qs.prepare(model, qs.Scheme(weight_bits=4, act_bits=4, grad_scaling=True), train[0][0][:1])
qs.calibrate(model, train, count=8)
groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-4)
optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
weights = qs.quantized_weights(model)
qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Freezing(0.05)])
epoch()
qs.reestimate_batchnorm(model, train, count=50)

path = Path(tempfile.mkdtemp()) / "model.onnx"
names = [str(digit) for digit in range(10)]
exported = qs.export_onnx(model, path, test[0][0], labels=names)
print(f"{path}: {exported.size / 1e3:.0f} kB, float weights alone take 168 kB")

verified = qs.verify_onnx(model, path, test[1:])  # once more, on images that it has not seen
print(verified.verdict)

session = onnxruntime.InferenceSession(path)
right = 0
for images, labels in test:
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    right += int((torch.from_numpy(logits).argmax(1) == labels).sum())
print(f"{right} of 1000 test images right in ONNX Runtime")
