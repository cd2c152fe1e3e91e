"""Times of a run, over its processes."""

from quiesce.training import clock as module
from quiesce.training.clock import Clock


def test_stages_and_processes_are_added_up(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now_s[0])
    first = Clock()
    now_s[0] += 1
    with first.timed("float"):
        now_s[0] += 2
    with first.timed("training"):
        now_s[0] += 4
        assert first.seconds() == {"float": 2, "training": 4, "all": 7}
    second = Clock(first.seconds())
    with second.timed("training"):
        now_s[0] += 8
    assert second.seconds() == {"float": 2, "training": 12, "all": 15}
