"""Plain arrays: what they hold computes what the network computes."""

import json

import numpy as np
import pytest
import torch

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


def test_learned_offsets_are_there(tmp_path) -> None:
    network = calibrated(mobile(), learn_offset=True)
    export_arrays(network, tmp_path / "model.npz", images())
    with np.load(tmp_path / "model.npz") as arrays:
        offset = network[3].body[0].input_quantizer.offset
        assert arrays["3.body.0.input_offset"] == np.float32(offset.item())


def test_an_existing_file_is_refused(network, tmp_path) -> None:
    (tmp_path / "model.npz").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export_arrays(network, tmp_path / "model.npz", images())
    assert (tmp_path / "model.npz").read_text() == "mine"
