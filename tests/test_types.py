"""A type checker accepts what users write."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import quiesce

SCRIPT = """\
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import quiesce as qs

x, y = torch.ones(4, 2), torch.zeros(4)
model: nn.Module = nn.Linear(2, 2)
qs.prepare(model, qs.Scheme(weight_bits=4), {"x": x})
qs.prepare(model, qs.Scheme(weight_bits=4), (x, y))
qs.calibrate(model, [(x, y)])
qs.calibrate(model, [((x, x), y)])
qs.calibrate(model, [{"x": x}])
qs.calibrate(model, [([x, x], [{"boxes": x}])])
qs.calibrate(model, [x], forward=lambda model, batch: model(batch))
qs.reestimate_batchnorm(model, DataLoader(TensorDataset(x, y)))
qs.verify_onnx(model, "network.onnx", [(x, y)], compare="max_error")
weights = qs.quantized_weights(model)
optimizer = torch.optim.SGD(qs.parameter_groups(model, weight_decay=0.1))
control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.Freezing(0.02)])
average: qs.WeightAverage = qs.WeightAverage(model, 0.99)
"""

WRONG = """
qs.calibrate("network", [x])
qs.Control(optimizer, weights, qs.OscillationTracker(weights), qs.Freezing(0.02))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")
def test_a_script_of_a_user_has_the_right_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + WRONG)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(Path(quiesce.__file__).parents[1])]})
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    ran = subprocess.run([*command, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    found = json.loads(ran.stdout)["generalDiagnostics"]
    errors = [each["range"]["start"]["line"] for each in found if each["severity"] == "error"]
    last = len((SCRIPT + WRONG).splitlines())
    assert sorted(set(errors)) == [last - 2, last - 1]
