"""`quiesce.audit`: what a conversion, or any exported file, holds beside the trained network."""

from pathlib import Path
from typing import Any

from torch import nn

from quiesce.export.audit.auditing import FileAudit, audit_file
from quiesce.inference import Input
from quiesce.stacks.attached import Attached
from quiesce.stacks.audit import Audit
from quiesce.stacks.audit import audit as audit_conversion


def audit(
    trained: Attached | nn.Module, converted: Any, *, example_input: Input | None = None
) -> Audit | FileAudit:
    """Compare the numbers of training with those of a converted network or of a file.

    Args:
        trained: The result of `quiesce.attach`, or a prepared and trained model.
        converted: For the result of `attach`, what the toolkit's conversion returned, or the path
            of the file that it wrote. For a prepared model, the path of a file: ONNX with
            QuantizeLinear and DequantizeLinear, QONNX, or .tflite, from quiesce or any other tool.
        example_input: For a prepared model, a batch of real inputs, on which the change of the
            outputs is measured.

    Returns:
        A table of the layers that changed; see `quiesce.stacks.audit.Audit` and
        `quiesce.export.audit.auditing.FileAudit`.

    Raises:
        AttachError: A layer is not found in `converted`, or has another shape there.
        ExportError: The file is missing, damaged, or has no such layer.
        TypeError: An argument is of another kind, or `example_input` is missing.

    Examples:
        >>> _ = qs.export_onnx(layer, "model.onnx", x)
        >>> print(qs.audit(layer, "model.onnx", example_input=x))
        0 of 32 codes, 0 of 4 scales and 0 of 4 biases changed
    """
    if isinstance(trained, Attached):
        return audit_conversion(trained, converted)
    if not isinstance(trained, nn.Module):
        raise TypeError(
            "`trained` must be the result of quiesce.attach or a prepared model, got "
            f"{type(trained).__name__}"
        )
    if not isinstance(converted, str | Path) or example_input is None:
        raise TypeError(
            "a prepared model is compared with the path of a file, on `example_input`: "
            "quiesce.audit(model, 'model.onnx', example_input=images)"
        )
    return audit_file(trained, converted, example_input)
