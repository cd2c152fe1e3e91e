"""Count the weight codes and scales that another tool changes when it quantizes a trained network.

ONNX Runtime rounds the float copy of a trained 8-bit network again; quiesce's own file is the
comparison. Needs the extra onnx. Run it with `python examples/audit.py`.
"""

import logging
import tempfile
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import nn

import quiesce as qs

logging.disable(logging.WARNING)  # of the exporter and of ONNX Runtime
torch.manual_seed(0)
images = torch.randn(64, 3, 16, 16)
labels = (images.mean((1, 2, 3)) > 0).long()
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, groups=16),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(400, 2),
)
qs.prepare(model, qs.Scheme(weight_bits=8, act_bits=8), images[:1])
qs.calibrate(model, [images])
groups = qs.parameter_groups(model, weight_decay=1e-4, scale_lr=1e-4)
optimizer = torch.optim.Adam(groups, lr=1e-3)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


class Reader(CalibrationDataReader):
    """Gives ONNX Runtime one batch."""

    batches = iter([{"images": images.numpy()}])

    def get_next(self):
        """Return the next batch, or None."""
        return next(self.batches, None)


folder = Path(tempfile.mkdtemp())
plain, names = qs.strip(model).eval(), ["images"]
torch.onnx.export(plain, (images,), folder / "float.onnx", input_names=names, dynamo=True)
quantize_static(folder / "float.onnx", folder / "theirs.onnx", Reader(), QuantFormat.QDQ)
qs.export_onnx(model, folder / "ours.onnx", images)
theirs = qs.audit(model, folder / "theirs.onnx", example_input=images)
ours = qs.audit(model, folder / "ours.onnx", example_input=images)
print("quantized again by ONNX Runtime:", theirs, sep="\n")
print("exported by quiesce:", ours, sep="\n")
