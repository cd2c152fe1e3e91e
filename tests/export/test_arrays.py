"""Plain arrays: what they hold computes what the network computes."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quiesce.errors import ExportError
from quiesce.export.arrays import export_arrays

from .networks import calibrated, images, mobile


def test_a_layer_computed_from_the_arrays_alone(network, tmp_path) -> None:
    header = export_arrays(network, tmp_path / "model.npz", images())
    arrays = dict(np.load(tmp_path / "model.npz"))
    assert json.loads(str(arrays["header"])) == header
    layer = next(each for each in header["layers"] if each["name"] == "3.body.3")
    assert (layer["kind"], layer["group"], layer["pads"]) == ("Conv", 16, [1, 1, 1, 1])

    seen = {}
    conv, norm = network[3].body[3], network[3].body[4]
    handles = [
        conv.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
        norm.register_forward_hook(lambda _, __, out: seen.update(y=out)),
    ]
    with torch.no_grad():
        network(images())
    for handle in handles:
        handle.remove()

    name, limits = layer["name"], layer["input"]
    step = float(arrays[f"{name}.input_scale"])
    codes = np.clip(np.round(seen["x"].double().numpy() / step), limits["low"], limits["high"])
    sums = torch.nn.functional.conv2d(
        torch.from_numpy(codes),
        torch.from_numpy(arrays[f"{name}.codes"]).double(),
        padding=1,
        groups=layer["group"],
    ).numpy()
    column = (-1, 1, 1)
    scale, bias = (arrays[f"{name}.{part}"].reshape(column) for part in ("scale", "bias"))
    computed = scale.astype(np.float64) * sums * step + bias
    # float32 sums of at most 9 products each, then scale, shift: some ten roundings of 6e-8
    assert np.allclose(computed, seen["y"].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_learned_offsets_are_there(tmp_path) -> None:
    network = calibrated(mobile(), learn_offset=True)
    export_arrays(network, tmp_path / "model.npz", images())
    with np.load(tmp_path / "model.npz") as arrays:
        offset = network[3].body[0].input_quantizer.offset
        assert arrays["3.body.0.input_offset"] == np.float32(offset.item())


class Tokens(nn.Module):
    """A batch norm behind a linear layer whose channels are not where the norm counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(self.stem(x).relu().flatten(2).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(tokens).relu().mean(2))


class Twice(nn.Module):
    """A convolution that its batch norm does not read alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.norm(y).relu() + y).flatten(1)


class Doubled(nn.Linear):
    """A layer that does more with its weight than to multiply by it."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, 2 * self.weight.sin())


def padded(mode: str) -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), conv, nn.Flatten(), nn.Linear(400, 5))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (padded("reflect"), "2: what it does with its input"),
        (padded("circular"), "2: what it does with its input"),
        (Tokens(), "norm: this batch norm cannot be folded"),
        (Twice(), "norm: this batch norm cannot be folded"),
        (nn.Sequential(nn.Flatten(), Doubled(432, 5)), "1: its use of the weight"),
    ],
)
def test_what_arrays_can_not_tell_is_refused(network, told, tmp_path) -> None:
    with pytest.raises(ExportError, match=told):
        export_arrays(calibrated(network), tmp_path / "model.npz", images())
    assert list(tmp_path.iterdir()) == []


def test_a_grouped_transposed_layer_has_a_scale_for_each_channel(tmp_path) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    parts = (nn.Conv2d(3, 4, 3), nn.ReLU(), layer, nn.Flatten(), nn.Linear(864, 5))
    network = calibrated(nn.Sequential(*parts), per_channel=True)
    export_arrays(network, tmp_path / "model.npz", images())
    seen = {}
    layer.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    with torch.no_grad():
        network(images())
        x = layer.input_quantizer(seen["x"])
    with np.load(tmp_path / "model.npz") as arrays:
        codes, scale, bias = (
            torch.from_numpy(arrays[f"2.{n}"]) for n in ("codes", "scale", "bias")
        )
    assert scale.shape == (6,)
    sums = nn.functional.conv_transpose2d(x.double(), codes.double(), groups=2)
    computed = scale.view(-1, 1, 1) * sums + bias.view(-1, 1, 1)
    # float32 sums of at most 18 products each, a scale and a bias: some twenty roundings of 6e-8
    assert torch.allclose(computed, seen["y"].double(), rtol=1e-5, atol=1e-5)


def test_an_existing_file_is_refused(network, tmp_path) -> None:
    (tmp_path / "model.npz").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_arrays(network, tmp_path / "model.npz", images())
    assert (tmp_path / "model.npz").read_text() == "mine"
