"""Two nodes under torchrun, here two agents on one machine: one is killed, and the run goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quiesce.cli import main
from quiesce.run_folder.checkpoint_file import read_checkpoint
from quiesce.run_folder.folder import CHECKPOINT
from support.killed_runs import FLAGS, assert_same_run

LIMIT_S = 200
DDP = ("--trainer.strategy=ddp", "--tracker.verify_every=1", "--checkpoint.every=1")


def train(folder: Path, *more: str) -> list[str]:
    """What is run on each node."""
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    return ["train", "mnist_freeze_w3a3", *flags, *DDP, *more, f"--run={folder / 'run'}"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def agent(folder: Path, port: int, *, host: bool) -> subprocess.Popen[str]:
    """A node of one process; the host keeps the store in which nodes meet."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    argv += ["--max-restarts=3", "--monitor-interval=0.1", "--rdzv-backend=c10d", "--rdzv-id=one"]
    argv += [f"--rdzv-endpoint=localhost:{port}", f"--rdzv-conf=is_host={int(host)}"]
    argv += ["--local-addr=localhost", "-m", "--", "quiesce"]
    argv += train(folder, "--resume", "--trainer.num_nodes=2", "--trainer.devices=1")
    # a new agent counts its restarts from 0, and the store of the agents goes by that count: the
    # workers would not find each other. So rank 0 makes a store of its own each time.
    env = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / f"agent{int(host)}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            argv, stdout=log, stderr=log, text=True, env=env, start_new_session=True
        )


def kill_node(agent: subprocess.Popen[str]) -> None:
    """The agent and its process, at once, as when a machine loses its power."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text("utf-8").split()
    for pid in (agent.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    agent.wait()


@pytest.fixture
def nodes(tmp_path: Path):
    """Host and guest, which run until the end of the test at most."""
    port = free_port()
    started = [agent(tmp_path, port, host=host) for host in (True, False)]
    yield started, lambda: agent(tmp_path, port, host=False)
    for each in started:
        if each.poll() is None:
            kill_node(each)


@pytest.mark.slow
def test_a_run_goes_on_from_its_last_checkpoint_when_a_node_is_lost(
    nodes, tmp_path: Path, capsys
) -> None:
    agents, another_guest = nodes
    deadline = time.monotonic() + LIMIT_S
    while not (tmp_path / "run" / CHECKPOINT).exists():
        assert [each.poll() for each in agents] == [None, None], "ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.05)
    kill_node(agents[1])
    reached = read_checkpoint(tmp_path / "run" / CHECKPOINT)["global_step"]
    agents[1] = another_guest()
    assert [each.wait(deadline - time.monotonic()) for each in agents] == [0, 0]
    told = (tmp_path / "agent1.log").read_text("utf-8")
    assert f"resuming from {tmp_path / 'run' / CHECKPOINT}: the quantized network" in told
    assert 0 < reached < 15

    whole = tmp_path / "whole"
    whole.mkdir()
    argv = [sys.executable, "-m", "quiesce", *train(whole, "--trainer.devices=2")]
    subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT_S)
    assert_same_run(whole / "run", tmp_path / "run")
    capsys.readouterr()
    argv = train(tmp_path, "--resume", "--trainer.num_nodes=2", "--trainer.devices=1")
    assert main(argv) == 0  # a node that is late finds all done
    assert "rounded, untrained" in capsys.readouterr().out
