"""Files of weights: good ones in each form, and every kind of bad one."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from quiesce.errors import CheckpointError
from quiesce.files.weight_files import load_weights, read_weights


class Harmful:
    """Makes a folder when it is unpickled the way pickle does it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def refused(file: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        read_weights(file)
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {
            "state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
        },
    ],
    ids=["plain", "state_dict", "model", "module.", "model._orig_mod."],
)
def test_weights_are_found_in_the_usual_wrappings(wrap, tmp_path) -> None:
    source = network()
    torch.save(wrap(source.state_dict()), tmp_path / "a.pt")
    target = network()
    nn.init.zeros_(target[0].weight)
    load_weights(target, read_weights(tmp_path / "a.pt"), source="a.pt")
    assert torch.equal(target[0].weight, source[0].weight)


def test_safetensors_and_the_home_folder_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    found = read_weights("~/a.safetensors")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_missing_file_is_named(tmp_path) -> None:
    assert "is not a file" in refused(tmp_path / "nothing.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_is_cut_off_is_damaged(form: str, share: float, tmp_path) -> None:
    file = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pt")
    state = network().state_dict()
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "is damaged or cut off (" in refused(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_something_else_is_damaged(suffix: str, tmp_path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_text("this is a letter to a friend")
    assert "is damaged or cut off (" in refused(file)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_never_run(writer: str, tmp_path) -> None:
    file, victim = tmp_path / "a.pt", tmp_path / "victim"
    content = {"weight": torch.zeros(3), "more": Harmful(victim)}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    assert "holds pickled code" in refused(file)
    assert not victim.exists()


def test_a_whole_pickled_network_is_refused_as_code(tmp_path) -> None:
    torch.save(network(), tmp_path / "a.pt")
    assert "holds pickled code" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor and no weights"),
        ({}, "holds a dict and no weights"),
        ({"lr": 0.1}, "holds no weights by name: 'lr' is a float"),
        ({1: torch.zeros(3)}, "holds no weights by name: 1 is a Tensor"),
    ],
)
def test_a_file_without_weights_says_what_it_has(content, message: str, tmp_path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert message in refused(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"0.weight": torch.zeros(8, 3, 3, 3)}),
            "the network Sequential: of its 9 tensors, 0 are unknown and 1 have another shape; "
            "0 of the network's 9 tensors are missing; first 0.weight, (8, 3, 3, 3) in the file, "
            "(4, 3, 3, 3) in the network",
        ),
        (lambda state: state.pop("2.bias"), "9 tensors are missing; first missing: 2.bias"),
        (
            lambda state: state.update({"3.bias": torch.zeros(1)}),
            "of its 10 tensors, 1 are unknown",
        ),
        (lambda state: state.clear(), "of its 0 tensors"),
    ],
)
def test_weights_of_another_network_are_refused_whole(change, message: str) -> None:
    model = network()
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    change(state)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as raised:
        load_weights(model, state, source="a.pt")
    assert message in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_not_finite_are_damaged() -> None:
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["2.weight"][1, 1] = torch.nan
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged: 2\.weight is not finite"):
        load_weights(model, state, source="a.pt")


def test_batch_norm_counters_may_be_missing() -> None:
    model = network()
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    del state["1.num_batches_tracked"]
    load_weights(model, state, source="a.pt")
    assert torch.equal(model[1].running_mean, torch.ones(4))
