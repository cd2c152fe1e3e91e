"""Run folders to read, and a browser to look."""

import pytest

from quiesce.report.reading.run import page_run
from support.made_runs import QUIET, Made, make_run


@pytest.fixture
def made(tmp_path):
    """Makes a run folder from what differs, and reads it."""

    def make(name="run", *, remove=(), finished=True, **differs):
        folder = make_run(tmp_path / name, Made(**differs), finished=finished)
        for file in remove:
            (folder / file).unlink()
        return page_run(folder, name)

    return make


@pytest.fixture
def quiet_run(tmp_path):
    """The folder of such a run."""
    return make_run(tmp_path / "quiet", Made(**QUIET), probed=False)
