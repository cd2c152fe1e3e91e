"""Files without an end, and folders whose names stand for places elsewhere."""

import os
from pathlib import Path

import pytest

from quiesce.files.untrusted.limits import read_bytes, refuse_links


def test_as_many_bytes_as_are_allowed_are_read(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "a", 10) == b"x" * 10
    with pytest.raises(ValueError, match="larger than"):
        read_bytes(tmp_path / "a", 9)


def test_devices_pipes_and_folders_are_no_files(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opened, it would wait for a writer
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            read_bytes(path, 10)


def test_a_missing_file_is_missing(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "a", 10)


def test_links_are_refused_at_any_depth(tmp_path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.csv").write_text("step\n")
    refuse_links(run)
    (run / "checkpoints" / "last.ckpt").symlink_to(outside)  # which is not even there
    with pytest.raises(ValueError, match=r"checkpoints/last\.ckpt is a symbolic link"):
        refuse_links(run)
