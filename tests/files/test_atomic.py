"""Files that are whole or not there."""

import errno

import pytest

from quiesce.errors import DiskFullError
from quiesce.files.atomic import remove_leftovers, write_beside


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


def test_a_full_disk_is_told_with_file_and_space(tmp_path) -> None:
    def full(beside) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(beside))

    told = r"/file cannot be written: No space left on device \(2.5 MB are needed, [\d.]+ \w+ are "
    with pytest.raises(DiskFullError, match=told):
        write_beside(tmp_path / "file", full, needed=2_500_000)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path) -> None:
    for name in (".last.ckpt.123", ".lock", "last.ckpt", ".hidden.txt"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.txt", ".lock", "last.ckpt"]
