"""Checkpoint files: whole, checked by CRCs, the last two kept."""

import errno
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quiesce.errors import CheckpointError, DiskFullError
from quiesce.run_folder.checkpoint_file import newest_sound, read_checkpoint, write_checkpoint
from support.states import assert_same_state


def content(step):
    return {"global_step": step, "weights": torch.full((50,), float(step)), "more": (1, [2.5])}


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 1 and 2."""
    for step in (0, 1, 2):
        write_checkpoint(content(step), tmp_path / "last.ckpt")
    return tmp_path


def steps(folder):
    return [read_checkpoint(path)["global_step"] for path in sorted(folder.iterdir())]


def test_the_last_two_are_kept(two):
    assert sorted(path.name for path in two.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert steps(two) == [2, 1]


def test_any_reader_of_torch_opens_it(two):
    read = torch.load(two / "last.ckpt", weights_only=True)
    assert torch.equal(read["weights"], content(2)["weights"])
    assert zipfile.ZipFile(two / "last.ckpt").testzip() is None


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_byte_is_noticed_or_does_no_harm(where, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("changed") / "last.ckpt"
    write_checkpoint(content(1), path)
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        read = read_checkpoint(path)
    except CheckpointError:
        return
    assert_same_state(read, content(1))  # the byte was between the parts of the archive


def test_a_changed_weight_is_noticed(two):
    path = two / "last.ckpt"
    data = path.read_bytes()
    value = content(2)["weights"][:4].numpy().tobytes()
    at = data.index(value)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged \(checksum of "):
        read_checkpoint(path)


@pytest.mark.parametrize("left", [0, 1, 80, 81, 82, 500, -1])
def test_a_file_that_is_cut_off_is_noticed(left, two):
    path = two / "last.ckpt"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        read_checkpoint(path)


def test_the_newest_sound_one_is_found_and_told_of(two):
    told = []
    path, found = newest_sound(two, told.append)
    assert (path.name, found["global_step"], told) == ("last.ckpt", 2, [])
    (two / "last.ckpt").write_bytes(b"")
    path, found = newest_sound(two, told.append)
    assert (path.name, found["global_step"]) == ("previous.ckpt", 1)
    (line,) = told
    assert f"{two / 'last.ckpt'} is damaged" in line
    assert f"{two / 'previous.ckpt'} instead, step 1" in line
    assert newest_sound(two / "nothing", told.append) is None


def test_a_write_that_fails_leaves_both(two, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    told = r"last.ckpt cannot be written: No space left on device \(\d+ bytes are needed, [\d.]+ "
    with pytest.raises(DiskFullError, match=told):
        write_checkpoint(content(3), two / "last.ckpt")
    assert steps(two) == [2, 1]


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_code_is_not_run(tmp_path, capsys):
    write_checkpoint({"code": Code()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="holds pickled code"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert capsys.readouterr().out == ""
