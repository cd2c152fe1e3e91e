"""Tasks as processes of this machine: failures, signals, threads, and what they leave behind."""

import os
import signal
import sys
import threading
import time

import pytest

from quiesce.sweeps import processes
from quiesce.sweeps.engines.local import LocalEngine
from quiesce.sweeps.processes import STOPPED, run_process
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import LOST_S, read_state


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Makes a task whose process runs a line of Python instead of training."""
    runner = "import json, sys; exec(json.loads(sys.argv[1])['recipe'])"
    monkeypatch.setattr(processes, "WORKER", (sys.executable, "-S", "-c", runner))

    def make(name, code="", **options):
        folder, log = tmp_path / name, tmp_path / "logs" / f"{name}.log"
        return Task(name=name, recipe=code, folder=folder, log=log, **options)

    return make


def run(tasks, jobs=1):
    ended = []
    LocalEngine(jobs).run(tasks, lambda task, why: ended.append((task.name, why)))
    return ended


def test_a_failure_does_not_stop_the_others_and_gives_its_last_line(task):
    bad = task("bad", "raise SystemExit('first line\\nquiesce: it is broken')")
    assert run([bad, task("good")]) == [("bad", "it is broken"), ("good", "")]


def test_a_failure_without_a_word_gives_its_exit_code(task):
    assert run([task("bad", "raise SystemExit(3)")]) == [("bad", "exit code 3")]


def test_a_killed_process_is_a_failure(task):
    [(_, why)] = run([task("bad", "import os; os.kill(os.getpid(), 9)")])
    assert "SIGKILL" in why


def test_as_many_at_a_time_as_asked(task, tmp_path):
    # each waits until it sees the other, so they end only if both run at once
    code = (
        "import pathlib, time; here = pathlib.Path({!r}); (here / '{}').touch()\n"
        "while len(list(here.glob('seen*'))) < 2: time.sleep(0.01)"
    )
    tasks = [task(str(i), code.format(str(tmp_path), f"seen{i}")) for i in range(2)]
    assert sorted(run(tasks, jobs=2)) == [("0", ""), ("1", "")]


@pytest.mark.parametrize(("jobs", "given", "seen"), [(10_000, None, "1"), (2, "7", "7")])
def test_cores_are_shared_among_jobs_unless_the_user_has_decided(
    jobs, given, seen, task, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    one = task("a", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run([one], jobs)
    assert one.log.read_text().strip() == seen


def test_a_task_works_in_the_directory_of_the_sweep(task, tmp_path):
    one = task("a", "import os; print(os.getcwd())", directory=tmp_path)
    run([one])
    assert one.log.read_text().strip() == str(tmp_path)


def test_the_state_file_says_what_became_of_a_task(task):
    good, bad = task("good"), task("bad", "raise SystemExit('broken')")
    run([good, bad])
    assert read_state(good.state).state == "done"
    state = read_state(bad.state)
    assert (state.state, state.why) == ("failed", "broken")
    assert state.ended_s >= state.began_s > 0


def test_a_running_task_is_touched_and_is_lost_when_nobody_does(task, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "BEAT_S", 0.05)
    go_on = tmp_path / "go on"
    code = (
        f"import pathlib, time\nwhile not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)"
    )
    one = task("a", code)
    thread = threading.Thread(target=run_process, args=(one,))
    thread.start()
    try:
        while not one.state.exists():
            time.sleep(0.01)
        assert read_state(one.state).state == "running"
        old = time.time() - 2 * LOST_S
        os.utime(one.state, (old, old))
        until_s = time.monotonic() + 20
        while read_state(one.state).state == "lost" and time.monotonic() < until_s:
            time.sleep(0.01)
        assert read_state(one.state).state == "running"
    finally:
        go_on.touch()
        thread.join()


def test_a_task_stops_when_its_stop_file_appears_and_gives_the_text_as_the_reason(
    task, tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "LOOK_S", 0.05)
    stop = tmp_path / "logs" / "a.stop"
    code = f"import pathlib, time; pathlib.Path({str(stop)!r}).write_text('pruned'); time.sleep(60)"
    one, two = task("a", code), task("b")
    assert run([one, two]) == [("a", "pruned"), ("b", "")]
    assert read_state(one.state).state == "pruned"
    two.stop.write_text("too late")
    two.log.unlink()
    assert run([one, two]) == [("a", "pruned"), ("b", "too late")]
    assert not two.log.exists()  # it has not started


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
    raise SystemExit(130)
"""

    def send():
        while not ready.exists():
            time.sleep(0.01)
        time.sleep(0.1)  # until it is inside its sleep
        os.kill(os.getpid(), sent)

    sender = threading.Thread(target=send)
    sender.start()
    stopped, later = task("a", code), task("b")
    with pytest.raises(KeyboardInterrupt):
        run([stopped, later])
    sender.join()
    assert ended.exists()
    assert read_state(stopped.state).why == STOPPED
    assert not later.log.exists()
