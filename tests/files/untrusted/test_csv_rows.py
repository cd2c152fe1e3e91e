"""CSV files that are longer or wider than a table of a run."""

import pytest

from quiesce.files.untrusted import csv_rows
from quiesce.files.untrusted.csv_rows import LONGEST_LINE, read_rows


def test_rows_are_read_and_a_line_without_its_end_is_left_out(tmp_path) -> None:
    (tmp_path / "a.csv").write_text('step,name\n1,"a, b"\n2,c\n3,d')
    rows = [{"step": "1", "name": "a, b"}, {"step": "2", "name": "c"}]
    assert list(read_rows(tmp_path / "a.csv")) == rows


@pytest.mark.parametrize(
    "text",
    ["a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n1,"x"y\n', "a,b\n\xff,1\n", "a\n" + "1" * 70_000 + "\n"],
)
def test_what_is_no_table_is_a_value_error(text, tmp_path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"\S"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path, little_memory) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"a\n")
        file.truncate(2**30)  # a gigabyte of zeros that takes no room
    with (
        little_memory(),
        pytest.raises(ValueError, match=f"a line of more than {LONGEST_LINE:,} characters"),
    ):
        list(read_rows(path))


@pytest.mark.parametrize(("name", "value"), [("MOST_LINES", 3), ("LARGEST_TABLE", 7)])
def test_a_table_has_a_largest_size(name, value, tmp_path, monkeypatch) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    assert len(list(read_rows(tmp_path / "a.csv"))) == 2
    (tmp_path / "a.csv").write_text("a\n1\n2\n3\n")
    monkeypatch.setattr(csv_rows, name, value)
    with pytest.raises(ValueError, match=r"or more than .* MB"):
        list(read_rows(tmp_path / "a.csv"))
