"""NPZ files that claim, unpack to, or run more than they should."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quiesce.files.untrusted import npz_arrays
from quiesce.files.untrusted.npz_arrays import read_arrays


def npy(shape: str, kind: str = "<f8", content: bytes = b"") -> bytes:
    """An NPY file whose header says what is asked for."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


def archive(path: Path, *members: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for number, member in enumerate(members):
            file.writestr(f"{number}.npy", member)
    return path


def test_what_numpy_wrote_is_read(tmp_path) -> None:
    given = {"a": np.arange(6).reshape(2, 3), "b": np.array("text"), "c": np.float32(2)}
    np.savez_compressed(tmp_path / "a.npz", **given)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("(2000000000,)", "<f8"), ("(1000000, 1000000)", "<f4"), ("(9999999999,)", "<U0"),
     ("(-1,)", "<f8"), ("(3, -3)", "<f8"), ("(30,)", "<f8")],
)  # fmt: skip
def test_an_array_can_not_claim_what_is_not_there(shape, kind, tmp_path, little_memory) -> None:
    path = archive(tmp_path / "a.npz", npy(shape, kind, b"\0" * 16))
    with little_memory(), pytest.raises(ValueError, match="the file has no room for it"):
        read_arrays(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path, little_memory) -> None:
    zeros = npy("(67108864,)", "<f8", bytes(2**29))
    path = archive(tmp_path / "a.npz", zeros, how=zipfile.ZIP_DEFLATED)
    del zeros
    assert path.stat().st_size < 2**20
    with little_memory(), pytest.raises(ValueError, match="its arrays have more than 256 MB"):
        read_arrays(path)


def test_many_small_members_add_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(npz_arrays, "LARGEST_CONTENT", 2000)
    array = npy("(100,)", "|u1", bytes(100))
    assert len(read_arrays(archive(tmp_path / "a.npz", *[array] * 8))) == 8
    with pytest.raises(ValueError, match="its arrays have more than"):
        read_arrays(archive(tmp_path / "a.npz", *[array] * 9))


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_pickled_objects_are_never_made(tmp_path) -> None:
    harmful = pickle.dumps(Harmful(tmp_path / "proof"))
    path = archive(tmp_path / "a.npz", npy("()", "|O", harmful))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(path)
    assert not (tmp_path / "proof").exists()


def test_a_file_that_is_no_archive_is_a_value_error(tmp_path) -> None:
    made = io.BytesIO()
    np.savez(made, a=np.zeros(3))
    for content in (b"", b"PK", made.getvalue()[:-20], made.getvalue()[40:]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"\S"):
            read_arrays(tmp_path / "a.npz")
