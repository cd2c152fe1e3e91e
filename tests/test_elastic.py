"""Two nodes under torchrun, here two agents on one machine: one is killed, and the run goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import elastic_script
from processes import together
from states import assert_same_state

SCRIPT = Path(__file__).with_name("elastic_script.py")
LIMIT_S = 100


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def agent(folder: Path, port: int, *more: str, host: bool) -> subprocess.Popen[str]:
    """A node of one process; the host keeps the store in which nodes meet."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    argv += ["--max-restarts=3", "--monitor-interval=0.1", "--rdzv-backend=c10d", "--rdzv-id=one"]
    argv += [f"--rdzv-endpoint=localhost:{port}", f"--rdzv-conf=is_host={int(host)}"]
    argv += ["--local-addr=localhost", str(SCRIPT), str(folder), *more]
    paths = [str(SCRIPT.parent), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env["QUIESCE_TEST_GUEST"] = "" if host else "yes"
    # a new agent counts its restarts from 0, and the store of the agents goes by that count: the
    # workers would not find each other. So rank 0 makes a store of its own each time.
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with (folder / f"agent{int(host)}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            argv, stdout=log, stderr=log, text=True, env=env, start_new_session=True
        )


def run(folder: Path, *more: str) -> None:
    """Both agents to their end; one that was killed is started again."""
    folder.mkdir()
    port, deadline = free_port(), time.monotonic() + LIMIT_S
    agents = [agent(folder, port, *more, host=host) for host in (True, False)]
    started = list(agents)
    try:
        while any(each.poll() is None for each in agents):
            assert time.monotonic() < deadline, "not done in time"
            for i, each in enumerate(agents):
                if each.poll() == -signal.SIGKILL:
                    agents[i] = agent(folder, port, *more, host=i == 0)
                    started.append(agents[i])
            time.sleep(0.1)
        assert [each.returncode for each in agents] == [0, 0]
    finally:
        for each in started:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()


def end(folder: Path, rank: int) -> dict[str, object]:
    return torch.load(folder / f"end{rank}.pt", weights_only=True)


def uninterrupted(_: int, folder: Path) -> None:
    os.environ["GROUP_WORLD_SIZE"] = "1"
    elastic_script.main(folder, None)


@pytest.mark.slow
def test_a_run_goes_on_from_its_last_checkpoint_when_a_node_is_lost(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    together(uninterrupted, 2, whole, whole)
    run(cut, "10")
    for rank in range(2):
        told = json.loads((cut / f"end{rank}.json").read_text("utf-8"))
        assert told == {"started_at": 8, "steps": 20}
        assert_same_state(end(cut, rank), end(whole, rank))
