"""Batches of every kind, through all functions that run a model on them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import quiesce as qs
from quiesce.diagnosis import Choice, diagnose_batchnorm, learn, population_statistics


class TwoInputs(nn.Module):
    """Takes two tensors, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.norm(self.left(x) + self.right(y)).relu())


X, Y = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0))
LABEL = torch.zeros(32, 4)
BATCHES = {
    "by place": ((X, Y),),
    "by place, with a label": ((X, Y), LABEL),
    "by name": {"x": X, "y": Y},
    "by name, with a label": [{"x": X, "y": Y}, LABEL],
}
SCHEME = qs.Scheme(weight_bits=3, act_bits=3)


def prepared() -> nn.Module:
    torch.manual_seed(0)
    return qs.prepare(TwoInputs(), SCHEME, {"x": X[:2], "y": Y[:2]})


def measured(batch: object, forward: object = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State and divergences after calibration and re-estimation on one batch."""
    model = qs.calibrate(prepared(), [batch], forward=forward)
    return qs.reestimate_batchnorm(model, [batch], forward=forward), model.state_dict()


@pytest.mark.parametrize("kind", BATCHES)
def test_calibration_and_reestimation_call_the_model_alike(kind) -> None:
    kl, state = measured(BATCHES[kind])
    same_kl, same = measured(None, lambda model, _: model(X, Y))
    assert torch.equal(kl["norm"], same_kl["norm"])
    assert all(torch.equal(tensor, same[name]) for name, tensor in state.items())


def test_a_pair_for_two_arguments_is_refused_with_the_way_to_give_them() -> None:
    with pytest.raises(TypeError, match="'y'"):
        qs.calibrate(prepared(), [(X, Y)])


@pytest.mark.parametrize("kind", BATCHES)
def test_diagnosis_calls_the_model_alike(kind) -> None:
    model = qs.calibrate(prepared(), [((X, Y),)])
    with population_statistics(model, [BATCHES[kind]]) as kl:
        (norm,) = diagnose_batchnorm(model, kl, {"x": X, "y": Y})
    assert norm.feeds_from is None  # an addition lies between
    assert norm.kl_mean > 0


@pytest.mark.parametrize("kind", [kind for kind in BATCHES if "label" in kind])
def test_codes_are_learned_from_inputs_and_labels(kind) -> None:
    model = qs.calibrate(prepared(), [((X, Y),)])
    weight = next(each for each in qs.quantized_weights(model) if each.name == "right")
    index = torch.arange(6)
    lower = weight.codes().flatten()[index].float().clamp(max=weight.grid.quant_max - 1)
    choice = Choice(weight=weight, index=index, lower=lower, probability=torch.full((6,), 0.5))
    (codes,) = learn(model, [choice], [BATCHES[kind]] * 5, mse_loss, steps=5)
    assert set((codes - lower).tolist()) <= {0.0, 1.0}


USER = """
from typing import Any
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
import quiesce as qs

model = nn.Sequential(nn.Linear(8, 4))
x, y = torch.randn(2, 8), torch.zeros(2)
qs.prepare(model, qs.Scheme(), example_input=x)
qs.prepare(model, qs.Scheme(), example_input=(x, y))
qs.prepare(model, qs.Scheme(), example_input={"x": x})
qs.prepare(model, qs.Scheme(), example_input=[x, x])
loader = DataLoader(TensorDataset(x, y), batch_size=2)
for batches in ([(x, y)], [x], [{"x": x}], [({"x": x}, y)], [((x, x), y)], [([x], [{"b": y}])]):
    qs.calibrate(model, batches)
    qs.reestimate_batchnorm(model, batches)
    qs.verify_onnx(model, "model.onnx", batches)
qs.calibrate(model, loader, count=2)
qs.reestimate_batchnorm(model, loader)


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    return model(batch["image"])


qs.calibrate(model, [{"image": x}], forward=forward)
qs.reestimate_batchnorm(model, [{"image": x}], forward=forward)
"""


def _pyright(script: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=False)


@pytest.mark.slow
def test_a_type_checker_accepts_what_the_functions_take(tmp_path) -> None:
    script = tmp_path / "user.py"
    source = Path(qs.__file__).parents[1]
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{source.as_posix()}"]}}')
    script.write_text(USER, "utf-8")
    found = _pyright(script)
    assert found.returncode == 0, found.stdout
    script.write_text(USER + "\nqs.calibrate(model, 3)\n", "utf-8")
    assert '"calibrate"' in _pyright(script).stdout
