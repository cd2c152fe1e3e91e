"""Files that are damaged, cut off, or of another time."""

import numpy as np
import pytest

from quiesce.errors import RecipeError
from quiesce.report.reading.series import (
    batchnorm_curves,
    curves,
    layers_over_time,
    read_columns,
)
from quiesce.report.reading.weights import trajectories


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_table_that_is_not_there_has_no_columns(tmp_path):
    assert read_columns(tmp_path / "nothing") == {}
    assert curves(tmp_path / "nothing") == batchnorm_curves(tmp_path / "nothing") == {}
    assert layers_over_time(tmp_path / "nothing") is trajectories(tmp_path / "nothing") is None


def test_a_table(file):
    columns = read_columns(file("step,layer,loss\n1,a,0.5\n2,b,\n"), text=("layer",))
    assert columns["layer"] == ["a", "b"]
    assert list(columns["step"]) == [1.0, 2.0]
    np.testing.assert_equal(columns["loss"], [0.5, np.nan])


def test_curves_have_no_empty_cells(file):
    found = curves(file("step,loss,top1,never\n1,0.5,,\n2,,97,\n3,0.25,98,\n"))
    assert {name: (list(each.steps), list(each.values)) for name, each in found.items()} == {
        "loss": ([1, 3], [0.5, 0.25]),
        "top1": ([2, 3], [97, 98]),
    }


def test_batchnorm_is_averaged_over_the_layers_of_a_kind(file):
    rows = "step,layer,kind,kl_mean\n1,a,depth-wise,0.1\n1,b,depth-wise,0.3\n1,c,full,2\n"
    found = batchnorm_curves(file(rows + "5,a,depth-wise,0.4\n"))
    assert list(found["depth-wise"].steps) == [1, 5]
    assert list(found["depth-wise"].values) == pytest.approx([0.2, 0.4])
    assert list(found["other"].values) == [2]


def test_a_last_line_that_is_still_being_written_is_left_out(file):
    columns = read_columns(file("step,loss\n1,0.5\n2,0."))
    assert list(columns["step"]) == [1.0]


@pytest.mark.parametrize("row", ["1,2,3", "1", "1,high", '1,"0.5'])
def test_a_damaged_table(row, file):
    with pytest.raises(RecipeError, match="file is damaged"):
        read_columns(file(f"step,loss\n{row}\n1,0.5\n"))


@pytest.mark.parametrize("read", [curves, layers_over_time, batchnorm_curves])
def test_a_table_without_its_columns_is_damaged(read, file):
    with pytest.raises(RecipeError, match="file is damaged: it lacks"):
        read(file("loss\n1\n" if read is curves else "layer\na\n"))


def test_damaged_arrays(file, tmp_path):
    np.savez(tmp_path / "whole.npz", steps=np.arange(1000))
    cut = (tmp_path / "whole.npz").read_bytes()[:500]
    for content in (cut, b"no archive at all", b""):
        with pytest.raises(RecipeError, match="file is damaged"):
            trajectories(file(content))


WHOLE = {
    "layer": "a",
    "steps": np.arange(5),
    "index": np.arange(2),
    "latent": np.ones((5, 2)),
    "scale": np.full(5, 0.5),
    "code": np.ones((5, 2), np.int8),
    "frequency": np.zeros((5, 2)),
    "quant_min": -4,
    "quant_max": 3,
}


def test_trajectories_are_in_codes(tmp_path):
    np.savez(tmp_path / "a.npz", **WHOLE)
    found = trajectories(tmp_path / "a.npz")
    assert found is not None
    assert (found.position == 2).all()
    np.savez(tmp_path / "b.npz", **WHOLE | {"scale": np.full((5, 2), [0.5, 0.25])})
    found = trajectories(tmp_path / "b.npz")
    assert found is not None
    assert found.position[0].tolist() == [2, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": np.arange(5.0)},
        {"code": np.full((5, 2), "x")},
        {"code": np.ones((5, 1), int)},
        {"latent": np.full((5, 2), np.nan)},
        {"latent": np.ones((1, 2))},
        {"scale": np.zeros(5)},
        {"scale": np.ones(4)},
        {"scale": np.ones((5, 3))},
        {"frequency": np.zeros((5, 2), complex)},
        {"quant_max": -4},
        {"quant_max": 10**9},
        {"quant_max": np.arange(3)},
        {"layer": np.array([{}], dtype=object)},
    ],
    ids=str,
)
def test_trajectories_that_make_no_sense(change, tmp_path):
    np.savez(tmp_path / "evil.npz", **WHOLE | change)
    with pytest.raises(RecipeError, match=r"evil\.npz is damaged"):
        trajectories(tmp_path / "evil.npz")
