"""Sweeps on real Ray: a cluster of two nodes in one process, one of which is lost."""

import json
import subprocess
import sys
import threading
import time

import pytest

import quiesce
from quiesce.errors import EngineError
from quiesce.sweeps import processes
from quiesce.sweeps.engines.ray_engine import RayEngine, Resources
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.sweep import Sweep
from support.engines import InProcess
from support.quick_worker import QUICK

pytest.importorskip("ray")

import ray
import ray.util.client.worker as ray_client
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of sockets and processes
    pytest.mark.xdist_group("ray"),
]

SWEEP = Sweep(name="s", recipe="mnist_freeze_w3a3", grid={"cure.max_bits": [3, 4]})
LOCAL = Resources(cpus=1)


@pytest.fixture
def sweep(tiny_flags, tmp_path):
    """Runs the sweep on an engine; returns the outcome and the numbers of each run."""
    runs = plan(
        SWEEP,
        [
            *tiny_flags,
            "--float_stage.epochs=1",
            "--trainer.max_steps=40",
            "--trainer.max_epochs=40",
            "--checkpoint.every=2",
        ],
    )

    def go(name, engine, **options):
        outcome = run_sweep(SWEEP, runs, tmp_path / name, engine=engine(tmp_path / name), **options)
        return outcome, {run.name: numbers(tmp_path / name / run.name) for run in runs}

    return go


def numbers(run):
    """What does not depend on the clock or on the folder."""
    summary = json.loads((run / "summary.json").read_text())
    timed = {name for name in summary if "second" in name}
    return {name: value for name, value in summary.items() if name not in timed}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """A client tries for half a minute to reach an address."""
    for name in ("INITIAL_TIMEOUT_SEC", "MAX_TIMEOUT_SEC"):
        monkeypatch.setattr(ray_client, name, 0.2)


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()  # whatever another test of this process has connected
    # a node that is slow because the machine is busy is not lost; one that ends is, at once
    patient = {"health_check_timeout_ms": 120_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": patient})
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_lost_node_costs_no_run_and_no_bit(sweep, cluster, tmp_path):
    _, local = sweep("local", lambda folder: InProcess())
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    lost = []

    def lose():
        """Remove the second node once both runs have a checkpoint."""
        until_s = time.monotonic() + 240
        while time.monotonic() < until_s:
            if len(list((tmp_path / "ray").glob("*/checkpoints/last.ckpt"))) == 2:
                cluster.remove_node(second, allow_graceful=False)
                lost.append(second)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=lose)
    thread.start()
    outcome, on_ray = sweep("ray", lambda folder: RayEngine(cluster.address, folder, LOCAL))
    thread.join()
    assert lost
    assert (outcome.finished, outcome.failed) == (2, {})
    assert on_ray == local


def test_a_node_that_is_lost_before_it_is_asked_is_left_out(cluster, tmp_path, monkeypatch):
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    nodes, lost = ray.nodes, []

    def listed_then_lost():
        listed = nodes()
        if not lost:
            assert sum(node["Alive"] for node in listed) == 2
            lost.append(second)
            cluster.remove_node(second, allow_graceful=False)
        return listed

    monkeypatch.setattr(ray, "nodes", listed_then_lost)
    RayEngine(cluster.address, tmp_path, LOCAL).run([], lambda *_: None)
    assert lost


def test_resources_that_no_node_has_are_refused_at_once(sweep, cluster, tmp_path):
    greedy = Resources(cpus=1000)
    with pytest.raises(EngineError, match="1,000 cpus"):
        sweep("greedy", lambda folder: RayEngine(cluster.address, folder, greedy))
    assert not (tmp_path / "greedy").exists()


def test_a_cluster_that_does_not_answer_is_one_line(sweep, tmp_path):
    with pytest.raises(EngineError, match=r"ray://127\.0\.0\.1:1") as refused:
        sweep("gone", lambda folder: RayEngine("ray://127.0.0.1:1", folder, LOCAL))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("who", ["the engine", "the user"])
def test_after_a_refused_address_the_process_can_connect_to_another(cluster, tmp_path, who):
    if who == "the engine":
        with pytest.raises(EngineError):
            RayEngine("ray://127.0.0.1:1", tmp_path, LOCAL).run([], lambda *_: None)
        ray.init(cluster.address)
        ray.shutdown()
    else:
        with pytest.raises(ConnectionError):
            ray.init("ray://127.0.0.1:1")
        RayEngine(cluster.address, tmp_path, LOCAL).run([], lambda *_: None)


@pytest.fixture
def blind_node(cluster, tmp_path):
    """A second node that does not see the folder `hidden`: it has other file systems."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("only root can hide a folder from a process")
    start = f"{sys.executable} -m ray.scripts.scripts start --num-cpus=1 --block"
    script = f"mount -t tmpfs none {hidden}; exec {start} --address={cluster.address}"
    command = ["unshare", "--mount", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    ray.init(cluster.address)
    until_s = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < until_s:
        time.sleep(0.1)
    ray.shutdown()
    yield hidden
    process.terminate()
    process.wait(30)


def test_nodes_that_share_no_folder_are_refused_before_anything_starts(sweep, cluster, blind_node):
    folder = blind_node / "study"
    with pytest.raises(EngineError, match="URL") as refused:
        RayEngine(cluster.address, folder.parent, LOCAL).run([], lambda *_: None)
    assert str(folder.parent) in str(refused.value)
    assert list(blind_node.iterdir()) == []
    mirror = Mirror(f"file://{blind_node}/study")
    mirror.check()
    with pytest.raises(EngineError, match="does not see"):
        RayEngine(cluster.address, mirror.local, LOCAL, mirror).run([], lambda *_: None)
    assert mirror.tree("") == []


def test_nodes_that_share_no_folder_run_a_sweep_at_a_url(
    cluster, blind_node, tmp_path, monkeypatch
):
    """The copy of the sweep is in a folder that one of the nodes does not see."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(blind_node))
    monkeypatch.setattr(processes, "WORKER", QUICK)
    mirror = Mirror(f"file://{tmp_path / 'study'}")
    sweep = Sweep(name="s", recipe="mnist_freeze_w3a3", seeds=(0, 1, 2, 3))
    runs = plan(sweep, ["--trainer.max_epochs=300"])
    environment = {"XDG_CACHE_HOME": str(blind_node)}
    runtime = {"worker_process_setup_hook": quick_hook(), "env_vars": environment}
    ray.init(cluster.address, runtime_env=runtime)
    try:
        engine = RayEngine(cluster.address, mirror.local, LOCAL, mirror)
        outcome = run_sweep(sweep, runs, mirror.local, engine=engine, mirror=mirror)
    finally:
        ray.shutdown()
    assert (outcome.finished, outcome.failed) == (4, {})
    here = {run.name for run in runs if (mirror.local / "logs" / f"{run.name}.log").exists()}
    assert 0 < len(here) < 4  # the other node has made the rest
    assert all((tmp_path / "study" / run.name / "summary.json").exists() for run in runs)


def quick_hook():
    """Lets the workers of Ray do what `QUICK` does."""
    command = QUICK

    def hook():  # Ray sends a function inside another one as it is, and does not import it
        from quiesce.sweeps import processes

        processes.WORKER = command

    return hook


@pytest.mark.filterwarnings("ignore")
def test_a_search_on_ray(cluster, tmp_path):
    pytest.importorskip("optuna")
    ray.init(cluster.address, runtime_env={"worker_process_setup_hook": quick_hook()})
    try:
        study = quiesce.tune(
            "mnist_freeze_w3a3",
            {"cure.threshold.end": "log:0.001:0.1"},
            tries=3,
            folder=tmp_path / "study",
            engine=RayEngine(cluster.address, tmp_path / "study", LOCAL),
        )
    finally:
        ray.shutdown()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
