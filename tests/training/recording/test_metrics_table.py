"""metrics.csv: fixed columns, empty where a row says nothing."""

import pytest

from quiesce.training.recording.metrics_table import COLUMNS, MetricsTable


def test_a_row_has_what_was_logged(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"loss": 0.5, "epoch": 0}, step=3)
    table.log_metrics({"top1_percent": 25.0}, step=4)
    head, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert head == ",".join(COLUMNS)
    assert rows == ["3,0,0.5,,,,,,,", "4,,,,25.0,,,,,"]


def test_what_has_no_column_is_no_surprise(tmp_path):
    with pytest.raises(KeyError, match=r"metrics\.csv has no column 'speed'"):
        MetricsTable(tmp_path).log_metrics({"speed": 1.0}, step=0)
