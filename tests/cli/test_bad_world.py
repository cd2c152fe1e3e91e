"""Bad input, second half: data, files of weights, folders, and numbers that go wrong.

Each is one line that says what, where and what then; and nothing half-written is left.
"""

import errno
import pickle
from pathlib import Path

import pytest
import torch

from quiesce.cli import main
from quiesce.training import stages
from support.messages import tells

QUICK = "mnist_freeze_w3a3"


@pytest.fixture
def on_pictures(pictures, tiny_run):
    return [QUICK, *tiny_run, "--data.name=folder", f"--data.folder={pictures}"]


def test_the_pictures_of_these_tests_train(on_pictures, capsys):
    assert main(["train", *on_pictures, "--data.batch_size=4"]) == 0


def test_empty_data_folder(on_pictures, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    told = refused("train", *on_pictures, f"--data.folder={tmp_path / 'empty'}")
    assert str(tmp_path / "empty") in told


def test_data_folder_without_a_picture(on_pictures, pictures, refused):
    for picture in pictures.rglob("*.png"):
        picture.unlink()
    assert str(pictures) in refused("train", *on_pictures)


def test_missing_data_folder(on_pictures, refused, tmp_path):
    told = refused("train", *on_pictures, f"--data.folder={tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in told


def test_a_data_folder_that_is_not_given(refused):
    assert "data.folder" in refused("train", "resnet18_lsq_w4a4")


def test_one_class(on_pictures, pictures, refused):
    for folder in pictures.glob("*/dog"):
        for picture in folder.iterdir():
            picture.unlink()
        folder.rmdir()
    assert "has only one class (cat)" in refused("train", *on_pictures)


def test_a_corrupt_image_is_named_with_the_number_of_good_ones(on_pictures, pictures, refused):
    bad = pictures / "train" / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    told = refused("train", *on_pictures)
    assert str(bad) in told
    assert "15" in told.replace(str(bad), "")


def test_a_corrupt_image_that_only_training_meets(on_pictures, pictures, refused, tmp_path):
    bad = pictures / "val" / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    told = refused("train", *on_pictures, "--data.check_up_to=0", "--data.batch_size=4")
    assert str(bad) in told
    assert not (tmp_path / "run").exists()


def weights_file(path, weights):
    torch.save(weights, path)
    return f"--model.weights={path}"


def test_a_checkpoint_of_another_network(refused, tiny_run, tmp_path):
    flag = weights_file(tmp_path / "other.pt", torch.nn.Linear(3, 4).state_dict())
    told = refused("train", QUICK, *tiny_run, flag)
    assert "other.pt does not fit the network" in told


def test_a_truncated_checkpoint(refused, tiny_run, tmp_path):
    path = tmp_path / "cut.pt"
    flag = weights_file(path, torch.nn.Linear(300, 400).state_dict())
    path.write_bytes(path.read_bytes()[:2000])
    assert "cut.pt is damaged or cut off" in refused("train", QUICK, *tiny_run, flag)


def test_a_truncated_network_of_a_run(tiny_run, refused, tmp_path, capsys):
    assert main(["train", QUICK, *tiny_run]) == 0
    capsys.readouterr()
    path = tmp_path / "run" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    told = refused("evaluate", tmp_path / "run")
    assert "network.safetensors is damaged or cut off" in told


class Payload:
    """Makes a file where it is unpickled, if anybody lets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_is_never_run(refused, tiny_run, tmp_path):
    proof = tmp_path / "proof"
    flag = weights_file(tmp_path / "evil.pt", {"weight": Payload(proof)})
    told = refused("train", QUICK, *tiny_run, flag)
    assert "evil.pt holds pickled code" in told
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists()  # it would have


def test_a_run_folder_that_exists(refused, tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("keep")
    told = refused("train", QUICK, *tiny_run)
    assert f"{tmp_path / 'run'} exists already; give another folder with --run" in told


def test_a_folder_that_can_not_be_made(refused, tiny_run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    told = refused("train", QUICK, *tiny_run, f"--run={tmp_path / 'file' / 'run'}")
    assert f"{tmp_path / 'file' / 'run'} cannot be written: Not a directory" in told


def test_a_read_only_disk(refused, tiny_run, monkeypatch):
    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    told = refused("train", QUICK, *tiny_run)
    assert tells(told, "Read-only file system", "--run")


def test_a_disk_that_is_full_from_the_start(refused, tiny_run, monkeypatch):
    def full(self, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    told = refused("train", QUICK, *tiny_run)
    assert tells(told, "No space left on device", "--run")


def test_a_disk_that_fills_up_at_the_first_checkpoint(refused, tiny_run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    monkeypatch.setattr("lightning.pytorch.trainer.Trainer.save_checkpoint", full)
    told = refused("train", QUICK, *tiny_run, "--checkpoint.every=1")
    assert tells(told, "last.ckpt", "No space left on device")


def test_a_scale_that_goes_bad_stops_the_run_by_step_and_layer(refused, tiny_run):
    flags = ["--scales_optimizer.kind=sgd", "--scales_optimizer.lr=1e38", "--trainer.max_steps=6"]
    told = refused("train", QUICK, *tiny_run, *flags)
    assert tells(told, "step 1", "'stem.0'", "stem.0.weight_quantizer.scale")
    assert "scales_optimizer.lr" in told


def test_the_last_good_checkpoint_is_kept_when_the_loss_goes_bad(tiny_run, tmp_path, capsys):
    # four steps in each of two epochs; the penalty explodes in the second
    flags = [
        "--cure.strength.end=1e300",
        "--cure.strength.begin=0.6",
        "--trainer.max_steps=-1",
        "--trainer.max_epochs=2",
    ]
    assert main(["train", "mnist_dampen_w3a3", *tiny_run, *flags]) == 2
    err = capsys.readouterr().err
    kept = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert len(err.splitlines()) == 2  # the first warns of few steps
    assert f"the last good checkpoint is {kept}" in err
    state = torch.load(kept, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_batch_that_batch_norm_can_not_normalise(refused, tiny_run):
    flags = ["--data.batch_size=1", "--model.name=mobilenetv3_small_100"]
    told = refused("train", QUICK, *tiny_run, *flags)
    assert "batch of 1" in told
    assert tells(told, "data.batch_size", "2")


def test_ctrl_c_in_training_leaves_nothing_half_written(tiny_run, tmp_path, monkeypatch, capsys):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.Classifier, "training_step", pressed)
    assert main(["train", QUICK, *tiny_run]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "quiesce: stopped"
    assert not (tmp_path / "run").exists()
