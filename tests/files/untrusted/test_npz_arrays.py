"""NPZ files that are damaged, too large, or contain pickled objects."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quiesce.files.untrusted import npz_arrays
from quiesce.files.untrusted.npz_arrays import read_arrays


def test_what_numpy_wrote_is_read(tmp_path) -> None:
    given = {"a": np.arange(6).reshape(2, 3), "b": np.array("text"), "c": np.float32(2)}
    np.savez_compressed(tmp_path / "a.npz", **given)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[name], given[name]) for name in given)


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(10))
    monkeypatch.setattr(npz_arrays, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match="larger than"):
        read_arrays(tmp_path / "a.npz")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["array", "member", "file"])
def test_pickled_objects_are_never_made(place, tmp_path) -> None:
    path, harmful = tmp_path / "a.npz", Harmful(tmp_path / "proof")
    if place == "array":
        np.savez(path, a=np.array([harmful], dtype=object))
    elif place == "member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", pickle.dumps(harmful))
    else:
        path.write_bytes(pickle.dumps(harmful))
    try:
        found = read_arrays(path)
    except ValueError:
        found = {}
    assert not any(isinstance(each, Harmful) for each in found.values())
    assert not (tmp_path / "proof").exists()


def test_a_damaged_file_is_a_value_error(tmp_path) -> None:
    made = io.BytesIO()
    np.savez(made, a=np.zeros(3))
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))
    for content in (b"", b"PK", made.getvalue()[:-20], made.getvalue()[40:], npy.getvalue()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"\S"):
            read_arrays(tmp_path / "a.npz")
