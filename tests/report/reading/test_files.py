"""Files that are damaged, cut off, or of another time."""

import numpy as np
import pytest

from quiesce.errors import RecipeError
from quiesce.report.reading.files import read_arrays, read_table


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_arrays_that_are_not_there_are_none(tmp_path):
    assert read_arrays(tmp_path / "nothing") is None


def test_a_table_that_is_not_there_has_no_rows(tmp_path):
    assert list(read_table(tmp_path / "nothing")) == []


def test_a_table(file):
    rows = read_table(file("step,layer,loss\n1,a,0.5\n2,b,\n"), text=("layer",))
    assert list(rows) == [
        {"step": 1.0, "layer": "a", "loss": 0.5},
        {"step": 2.0, "layer": "b", "loss": None},
    ]


def test_a_last_line_that_is_still_being_written_is_left_out(file):
    rows = read_table(file("step,loss\n1,0.5\n2,0."))
    assert list(rows) == [{"step": 1.0, "loss": 0.5}]


@pytest.mark.parametrize("row", ["1,2,3", "1", "1,high", '1,"0.5'])
def test_a_damaged_table(row, file):
    with pytest.raises(RecipeError, match="file is damaged"):
        list(read_table(file(f"step,loss\n{row}\n1,0.5\n")))


def test_damaged_arrays(file, tmp_path):
    np.savez(tmp_path / "whole.npz", steps=np.arange(1000))
    cut = (tmp_path / "whole.npz").read_bytes()[:500]
    for content in (cut, b"no archive at all", b""):
        with pytest.raises(RecipeError, match="file is damaged"):
            read_arrays(file(content))


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", steps=np.array([{}], dtype=object))
    with pytest.raises(RecipeError, match=r"evil\.npz is damaged"):
        read_arrays(tmp_path / "evil.npz")
