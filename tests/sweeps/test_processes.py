"""Tasks as processes: order, how many at a time, failures, Ctrl-C."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from quiesce.sweeps.processes import Task, run_tasks


@pytest.fixture
def task(tmp_path):
    """Makes a task that runs a line of Python."""

    def make(name, code="", **options):
        command = (sys.executable, "-S", "-c", code)
        return Task(name=name, command=command, log=tmp_path / f"{name}.log", **options)

    return make


class Heard:
    """Remembers what it was told, and how many tasks were at work at once."""

    def __init__(self):
        self.events = []
        self.at_once = [0]

    def __call__(self, task, state, why):
        self.events.append((task.name, state, why))
        begun = sum(state == "started" for _, state, _ in self.events)
        ended = sum(state != "started" for _, state, _ in self.events)
        self.at_once.append(begun - ended)


def test_one_at_a_time_in_order(task):
    run_tasks([task("a"), task("b")], 1, heard := Heard())
    assert [event[:2] for event in heard.events] == [
        ("a", "started"),
        ("a", "done"),
        ("b", "started"),
        ("b", "done"),
    ]


def test_as_many_at_a_time_as_asked(task):
    run_tasks([task(str(i), "import time; time.sleep(0.3)") for i in range(4)], 2, heard := Heard())
    assert max(heard.at_once) == 2
    assert len(heard.events) == 8


def test_a_failure_does_not_stop_the_others_and_gives_its_last_line(task):
    bad = task("bad", "raise SystemExit('first line\\nquiesce: it is broken')")
    run_tasks([bad, task("good")], 1, heard := Heard())
    assert ("bad", "failed", "it is broken") in heard.events
    assert ("good", "done", "") in heard.events


def test_a_failure_without_a_word_gives_its_exit_code(task):
    run_tasks([task("bad", "raise SystemExit(3)")], 1, heard := Heard())
    assert heard.events[-1] == ("bad", "failed", "exit code 3")


def test_a_killed_process_is_a_failure(task):
    run_tasks([task("bad", "import os; os.kill(os.getpid(), 9)")], 1, heard := Heard())
    name, state, why = heard.events[-1]
    assert (name, state) == ("bad", "failed")
    assert why.startswith("ended by SIGKILL")


def test_what_a_task_needs_is_done_before_and_its_failure_is_its_own(task):
    tasks = [
        task("slow", "import time; time.sleep(0.3)"),
        task("after", needs="slow"),
        task("bad", "raise SystemExit(1)"),
        task("never", needs="bad"),
    ]
    run_tasks(tasks, 4, heard := Heard())
    names = [event[:2] for event in heard.events]
    assert names.index(("slow", "done")) < names.index(("after", "started"))
    assert ("never", "failed", "bad failed") in heard.events
    assert ("never", "started") not in names


def test_a_task_is_prepared_right_before_it_starts(task, tmp_path):
    mark = tmp_path / "mark"
    code = f"import os; os.remove({str(mark)!r})"
    run_tasks([task("a", code, prepare=mark.touch)], 1, heard := Heard())
    assert heard.events[-1] == ("a", "done", "")


@pytest.mark.parametrize(("jobs", "given", "seen"), [(10_000, None, "1"), (2, "7", "7")])
def test_cores_are_shared_among_jobs_unless_the_user_has_decided(
    jobs, given, seen, task, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    one = task("a", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run_tasks([one], jobs, Heard())
    assert one.log.read_text().strip() == seen


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_and_is_an_interrupt(sent, task, tmp_path):
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    code = f"""
import pathlib, time
try:
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({str(ended)!r}).touch()
"""

    def send():
        while not ready.exists():
            time.sleep(0.01)
        time.sleep(0.1)  # until it is inside its sleep
        os.kill(os.getpid(), sent)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task("a", code), task("b")], 1, heard := Heard())
    sender.join()
    assert Path(ended).exists()
    assert [event[0] for event in heard.events] == ["a"]
