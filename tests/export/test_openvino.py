"""OpenVINO, where it is installed: pip install openvino."""

import numpy as np
import pytest
import torch

import quiesce as qs
from quiesce.export.targets.openvino import SETTINGS

from .networks import images

openvino = pytest.importorskip(
    "openvino", reason="OpenVINO is not installed: pip install 'quiesce[openvino]'"
)


def test_openvino_loads_a_file_and_names_the_same_classes(network, tmp_path) -> None:
    qs.export_onnx(network, tmp_path / "model.onnx", images())
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", SETTINGS)
    logits = compiled(images().numpy())[0]
    with torch.no_grad():
        expected = network(images()).numpy()
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
