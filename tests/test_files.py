"""Files that are whole or not there."""

import pytest

from quiesce.files import write_beside


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path) -> None:
    path = tmp_path / "file"
    write_beside(path, lambda beside: (beside.write_text("all of it"), path.exists() or None))
    assert path.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(beside) -> None:
        beside.write_text("ha")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_beside(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
