"""Sweeps on real Ray: a cluster of two nodes in one process, one of which is lost."""

import json
import threading
import time

import pytest

from quiesce.errors import EngineError
from quiesce.sweeps.engines.ray_engine import RayEngine, Resources
from quiesce.sweeps.plan import plan
from quiesce.sweeps.run_sweep import run_sweep
from quiesce.sweeps.sweep import Sweep
from support.engines import InProcess

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
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
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
