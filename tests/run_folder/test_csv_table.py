"""A CSV file that grows: readable at any moment, not there before it has a row."""

from pathlib import Path

import pytest

from quiesce.errors import CheckpointError, DiskFullError
from quiesce.run_folder.csv_table import CsvTable


def test_rows_are_in_the_file_at_once(tmp_path):
    table = CsvTable(tmp_path / "table.csv", ["step", "name", "value"])
    table.add([(1, "a,b", 0.5), (1, "c", None)])
    assert (tmp_path / "table.csv").read_text() == 'step,name,value\n1,"a,b",0.5\n1,c,\n'
    table.add([(2, "c", 1.0)])
    assert (tmp_path / "table.csv").read_text().endswith("1,c,\n2,c,1.0\n")


def test_rows_go_on_behind_those_of_a_checkpoint(tmp_path):
    path = tmp_path / "table.csv"
    table = CsvTable(path, ["step"])
    assert table.size() == 0
    table.add([[1]])
    size = table.size()
    table.add([[2], [3]])
    again = CsvTable(path, ["step"])
    again.go_on(size)
    again.add([[4]])
    assert path.read_text() == "step\n1\n4\n"
    again.go_on(0)
    assert not path.exists()
    again.add([[5]])
    assert path.read_text() == "step\n5\n"


def test_a_file_that_has_lost_rows_is_refused(tmp_path):
    table = CsvTable(tmp_path / "table.csv", ["step"])
    with pytest.raises(CheckpointError, match=r"table.csv has 0 bytes and had 7 when the"):
        table.go_on(7)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_with_file_and_space(tmp_path):
    (tmp_path / "table.csv").symlink_to("/dev/full")
    told = r"table.csv cannot be written: No space left on device \(7 bytes are needed, .* are free"
    with pytest.raises(DiskFullError, match=told):
        CsvTable(tmp_path / "table.csv", ["step"]).add([[1]])


def test_without_rows_there_is_no_file(tmp_path):
    CsvTable(tmp_path / "table.csv", ["step"]).add([])
    assert not list(tmp_path.iterdir())


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    CsvTable(tmp_path / "table.csv", ["step"]).add([[1]])
    assert (tmp_path / "table.csv").read_text() == "step\n1\n"
