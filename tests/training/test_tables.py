"""A CSV file that grows: readable at any moment, not there before it has a row."""

from quiesce.training.tables import CsvTable


def test_rows_are_in_the_file_at_once(tmp_path):
    table = CsvTable(tmp_path / "table.csv", ["step", "name", "value"])
    table.add([(1, "a,b", 0.5), (1, "c", None)])
    assert (tmp_path / "table.csv").read_text() == 'step,name,value\n1,"a,b",0.5\n1,c,\n'
    table.add([(2, "c", 1.0)])
    assert (tmp_path / "table.csv").read_text().endswith("1,c,\n2,c,1.0\n")


def test_without_rows_there_is_no_file(tmp_path):
    CsvTable(tmp_path / "table.csv", ["step"]).add([])
    assert not list(tmp_path.iterdir())


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    CsvTable(tmp_path / "table.csv", ["step"]).add([[1]])
    assert (tmp_path / "table.csv").read_text() == "step\n1\n"
