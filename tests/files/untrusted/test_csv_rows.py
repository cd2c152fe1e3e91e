"""CSV files that are damaged or too large."""

import pytest

from quiesce.files.untrusted import csv_rows
from quiesce.files.untrusted.csv_rows import read_rows


def test_rows_are_read_and_a_line_without_its_end_is_left_out(tmp_path) -> None:
    (tmp_path / "a.csv").write_text('step,name\n1,"a, b"\n2,c\n3,d')
    rows = [{"step": "1", "name": "a, b"}, {"step": "2", "name": "c"}]
    assert list(read_rows(tmp_path / "a.csv")) == rows


@pytest.mark.parametrize(
    "text",
    ["a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n1,"x"y\n', "a,b\n\xff,1\n", "a\n" + "1" * 200_000 + "\n"],
)
def test_what_is_no_table_is_a_value_error(text, tmp_path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"\S"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_table_has_a_largest_size(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n2\n3\n")
    assert len(list(read_rows(tmp_path / "a.csv"))) == 3
    monkeypatch.setattr(csv_rows, "LARGEST_TABLE", 7)
    with pytest.raises(ValueError, match="larger than"):
        list(read_rows(tmp_path / "a.csv"))
