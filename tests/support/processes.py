"""A function in several processes of torch.distributed (gloo), as tests need it: never for ever."""

import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import distributed

FORKSERVER = get_context("forkserver")
"""Imports once what the processes of all tests need; there is one server in each of pytest's."""
FORKSERVER.set_forkserver_preload(
    ["torch.distributed.tensor", "quiesce.public", "quiesce.training.run", "timm", "pytest"]
)


def together(
    function: Callable[..., Any], count: int, folder: Path, *args: Any, limit_s: float = 120
) -> list[Any]:
    """What `function(rank, *args)` returns in each of `count` processes that form a group.

    Args:
        function: Of a module, so that another process can import it; its result is pickled.
        count: Processes.
        folder: For the rendezvous and the results.
        args: Pickled too.
        limit_s: Seconds after which all are killed.

    Raises:
        RuntimeError: One of them raised or was not done in time; with what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        FORKSERVER.Process(target=_member, args=(function, rank, count, folder, args))
        for rank in range(count)
    ]
    for member in members:
        member.start()
    deadline = time.monotonic() + limit_s
    for member in members:
        member.join(max(0.0, deadline - time.monotonic()))
    late = [rank for rank, member in enumerate(members) if member.is_alive()]
    for member in members:
        member.kill()
        member.join()
    said = [folder / f"{rank}.failed" for rank in range(count)]
    if failed := [file.read_text("utf-8") for file in said if file.exists()]:
        raise RuntimeError("\n".join(failed))
    if late:
        raise RuntimeError(f"ranks {late} were not done after {limit_s} s")
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _member(
    function: Callable[..., Any], rank: int, count: int, folder: Path, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    names = {"MASTER_ADDR": "localhost", "MASTER_PORT": 0, "TORCHELASTIC_RUN_ID": "tests"}
    os.environ |= {name: str(value) for name, value in {**places, **names}.items()}
    store = distributed.FileStore(str(folder / "rendezvous"), count)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    try:
        result = function(rank, *args)
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    except BaseException:
        (folder / f"{rank}.failed").write_text(f"rank {rank}: {traceback.format_exc()}", "utf-8")
        os._exit(1)  # those who wait for this one find out at once
    distributed.destroy_process_group()
