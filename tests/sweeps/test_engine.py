"""The order of tasks: what starts when, and what a failure stops."""

import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from quiesce.sweeps.engines.engine import run_in_order
from quiesce.sweeps.task import Task


def task(name, needs=None):
    return Task(name=name, recipe=Path("r"), folder=Path(name), log=Path("l"), needs=needs)


class Place:
    """Where tasks run: each ends when `end` says so, or at once with the given results."""

    def __init__(self, results=None):
        self.results, self.submitted, self.running, self.most = results or {}, [], 0, 0

    def submit(self, task):
        self.submitted.append(task.name)
        self.running += 1
        self.most = max(self.most, self.running)
        future = Future()
        future.add_done_callback(self._ended)
        future.set_result(self.results.get(task.name, ""))
        return future

    def _ended(self, _):
        self.running -= 1


def run(tasks, place, **options):
    ended = []
    options = {"places": 2, **options}
    run_in_order(tasks, place.submit, lambda task, why: ended.append((task.name, why)), **options)
    return ended


def test_tasks_run_in_their_order():
    place = Place()
    assert run([task(name) for name in "abc"], place, at_once=1) == [(n, "") for n in "abc"]
    assert place.submitted == ["a", "b", "c"]


def test_a_task_waits_for_what_it_needs_and_then_goes_before_later_ones():
    tasks = [task("float0"), task("a0", "float0"), task("b0", "float0"), task("float1")]
    place = Place()
    run(tasks, place, at_once=1)
    assert place.submitted == ["float0", "a0", "b0", "float1"]


def test_a_failure_stops_only_what_needs_it():
    tasks = [task("float"), task("a", "float"), task("b")]
    place = Place({"float": "no such data"})
    ended = run(tasks, place, at_once=1)
    assert place.submitted == ["float", "b"]
    assert dict(ended) == {"float": "no such data", "a": "float failed", "b": ""}


def test_a_need_that_is_not_among_the_tasks_is_done_already():
    place = Place()
    assert run([task("a", "float")], place) == [("a", "")]


@pytest.mark.parametrize(("at_once", "most"), [(2, 2), (3, 3), (1, 1)])
def test_no_more_at_a_time_than_allowed(at_once, most):
    """All that may run at once is submitted before anything ends, and no more."""
    running, peaks = [], []

    def submit(task):
        running.append(Future())
        peaks.append(len(running))
        future = running[-1]
        if len(running) == most:
            threading.Timer(0.01, end_all).start()
        return future

    def end_all():
        while running:
            running.pop(0).set_result("")

    tasks = [task(str(i)) for i in range(most * 2)]
    run_in_order(tasks, submit, lambda *_: None, places=2, at_once=at_once)
    assert max(peaks) == most


def test_tasks_are_added_while_there_are_free_places_until_there_are_no_more():
    asked = []

    def more(free):
        asked.append(free)
        if len(asked) > 4:
            return None
        return [task(f"float{len(asked)}"), task(f"a{len(asked)}", f"float{len(asked)}")]

    place = Place()
    ended = run([task("first")], place, more=more, places=3, at_once=1)
    assert asked[:2] == [2, 1]  # one is unstarted; then it has ended, and two are unstarted
    assert [name for name, _ in ended] == place.submitted
    added = {f"{name}{i}" for name in ("float", "a") for i in range(1, 5)}
    assert set(place.submitted) == {"first", *added}


def test_an_engine_waits_for_more_although_nothing_runs(monkeypatch):
    monkeypatch.setattr("quiesce.sweeps.engines.engine.TICK_S", 0.01)
    answers = [[], [], [task("late")], [], None]
    assert run([], Place(), more=lambda _: answers.pop(0)) == [("late", "")]
    assert not answers


def test_a_task_that_is_added_later_waits_for_the_running_one_that_it_needs(monkeypatch):
    monkeypatch.setattr("quiesce.sweeps.engines.engine.TICK_S", 0.01)
    answers = [[task("float")], [task("a", "float")], None]
    events = []

    def submit(task):
        future = Future()
        events.append(task.name)
        threading.Timer(0.1, future.set_result, [""]).start()
        return future

    run_in_order(
        [],
        submit,
        lambda task, _: events.append(f"{task.name} ended"),
        lambda _: answers.pop(0),
        places=2,
    )
    assert events == ["float", "float ended", "a", "a ended"]


def test_a_thousand_tasks_cost_little():
    tasks = [task("float"), *(task(str(i), "float") for i in range(1000))]
    assert len(run(tasks, Place(), at_once=2)) == 1001


def test_a_task_survives_its_journey():
    sent = Task(
        name="a",
        recipe=Path("/x/r.yaml"),
        folder=Path("/x/a"),
        log=Path("/x/logs/a.log"),
        needs="float",
        weights=Path("/x/float.safetensors"),
    )
    assert Task.from_json(sent.to_json()) == sent
    assert sent.state == Path("/x/logs/a.json")
