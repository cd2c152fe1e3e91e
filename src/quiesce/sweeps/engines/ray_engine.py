"""Tasks on a Ray cluster. Needs the extra `ray`: pip install 'quiesce[ray]'.

Ray places each task on a node with the required resources. If the node is lost, Ray moves the task
to another node, where it resumes from its last checkpoint.
"""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiesce.errors import EngineError, first_line
from quiesce.extras import require
from quiesce.sweeps.engines.engine import More, Tell, run_in_order
from quiesce.sweeps.mirror import Mirror
from quiesce.sweeps.processes import run_process
from quiesce.sweeps.task import Task

LOCAL, _AWAY = "ray", "ray://"
"""The address that starts Ray on this machine, and the begin of one of a client."""

TRIES = 20
"""Number of times that a task moves to another node because its node was lost."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources that each task needs."""

    cpus: float = 1.0
    """Number of cores; a run gets as many threads, at least one."""

    gpus: float = 0.0
    """Number of devices; with a fraction, several tasks share one."""

    memory: int = 0
    """Memory in bytes; 0 reserves none."""

    def as_ray(self) -> dict[str, float]:
        """Return the amounts by the names that Ray's nodes report."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in amounts.items() if amount}


class RayEngine:
    """Runs tasks on a Ray cluster.

    Args:
        address: "ray" to start Ray on this machine, or an address for `ray.init`: "auto",
            "ray://HOST:PORT", "HOST:PORT".
        folder: The folder of the sweep, which all nodes must see under this path.
        resources: Resources that each task needs.
        mirror: The sweep at a URL, which all nodes must be able to read; then they need not see
            `folder`.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, address: str, folder: Path, resources: Resources, mirror: Mirror | None = None
    ) -> None:
        self._ray: Any = require("ray", "--on ray", "ray")
        self._address, self._folder, self._resources = address, folder, resources
        self._mirror = mirror

    def run(self, tasks: Sequence[Task], tell: Tell, more: More | None = None) -> None:
        """Run all tasks; see `Engine.run`. Ctrl-C cancels the tasks that have not ended.

        Raises:
            EngineError: The cluster does not answer, no node has the resources, or a node does not
                see the folder of the sweep.
        """
        ray = self._ray
        with self._connected():
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._refuse_resources(nodes)
            self._refuse_folder(nodes)
            resources, references = self._resources, []
            remote = ray.remote(_run).options(
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                memory=resources.memory or None,
                max_retries=TRIES,
            )
            threads = max(1, int(resources.cpus))

            def submit(task: Task) -> Future[str]:
                references.append(remote.remote(task, threads))
                return _explained(references[-1].future())

            try:
                run_in_order(tasks, submit, tell, more, places=self._places(nodes))
            except BaseException:
                for reference in references:
                    ray.cancel(reference)
                ray.wait(references, num_returns=len(references), timeout=60)
                raise

    @contextmanager
    def _connected(self) -> Iterator[None]:
        ray = self._ray
        if ray.is_initialized():  # the user's own program is already connected
            yield
            return
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self._address == LOCAL:
            options |= {"include_dashboard": False}
        else:
            options |= {"address": self._address}
        ray.shutdown()  # a refused `ray://` address leaves Ray in client mode: no other can connect
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error says the same
                ray.init(**options)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            ray.shutdown()  # for the next connection of the user's program
            token = (
                ", set RAY_AUTH_MODE=token if it asks for a token" if _AWAY in self._address else ""
            )
            raise EngineError(
                f"--on {self._address}: cannot connect to a Ray cluster: {_reason(error)}; "
                f"start one with `ray start --head`{token}, or use --on ray to start Ray on this "
                "machine"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _refuse_resources(self, nodes: list[dict[str, Any]]) -> None:
        needed = self._resources.as_ray()
        if not any(
            all(node["Resources"].get(k, 0) >= v for k, v in needed.items()) for node in nodes
        ):
            most = {k: max(node["Resources"].get(k, 0) for node in nodes) for k in needed}
            raise EngineError(
                f"no node of the cluster has {_amounts(needed)}; the largest amounts on a node are "
                f"{_amounts(most)}; ask for less: --cpus, --gpus, --memory"
            )

    def _places(self, nodes: list[dict[str, Any]]) -> int:
        """Return how many tasks the nodes can run at the same time."""
        needed = self._resources.as_ray() or {"CPU": 1.0}
        return sum(
            int(min(node["Resources"].get(k, 0) / amount for k, amount in needed.items()))
            for node in nodes
        )

    def _refuse_folder(self, nodes: list[dict[str, Any]]) -> None:
        """Check that every node sees a file that this process has written."""
        ray, mirror = self._ray, self._mirror
        placed = require("ray.util.scheduling_strategies", "--on ray", "ray")
        mark = self._folder / f".seen-{uuid.uuid4().hex}"
        mark.touch()
        try:
            if mirror is not None:
                mirror.put([mark])
            looks = [
                ray.remote(_sees)
                .options(
                    num_cpus=0,
                    scheduling_strategy=placed.NodeAffinitySchedulingStrategy(
                        node["NodeID"], soft=False
                    ),
                )
                .remote(mark, None if mirror is None else mirror.url)
                for node in nodes
            ]
            for node, look in zip(nodes, looks, strict=True):
                try:
                    reason = ray.get(look)
                except ray.exceptions.RayError as error:
                    reason = self._unless_lost(node, error)
                if reason:
                    raise EngineError(f"node {node['NodeManagerHostname']}: {reason}")
        finally:
            mark.unlink()
            if mirror is not None:
                mirror.remove(mark.name)

    def _unless_lost(self, node: dict[str, Any], error: Exception) -> str:
        """Return the reason of an error; "" if the cluster has lost the node: it gets no task."""
        alive = {other["NodeID"] for other in self._ray.nodes() if other["Alive"]}
        return first_line(error) if node["NodeID"] in alive else ""


def _run(task: Task, threads: int) -> str:
    return run_process(task, threads)


def _sees(mark: Path, url: str | None) -> str:
    """Return why a node does not see a file of the sweep, in one line, or ""."""
    if url is None:
        return "" if mark.is_file() else _NOT_SHARED.format(mark.parent)
    try:
        read = Mirror(url).reads(mark.name)
    except Exception as error:  # each file system has errors of its own
        return f"{url} can not be read: {first_line(error)}"
    return "" if read is not None else _NOT_SHARED.format(url)


_NOT_SHARED = (
    "it does not see {}, which is not shared; name a folder on a shared file system, or a URL such "
    "as s3://bucket/study: -o FOLDER"
)


def _reason(error: Exception) -> str:
    """Return the first line of an error, with the last one if the first one announces it."""
    first, last = first_line(error), str(error).strip().rpartition("\n")[2]
    return f"{first} {last}" if first.endswith(":") else first


def _explained(future: Future[str]) -> Future[str]:
    """Return a future whose result also explains a failure of Ray itself in one line."""
    explained: Future[str] = Future()

    def end(done: Future[str]) -> None:
        error = done.exception()
        explained.set_result(done.result() if error is None else f"Ray: {first_line(error)}")

    future.add_done_callback(end)
    return explained


def _amounts(amounts: dict[str, float]) -> str:
    names = {"CPU": "cpus", "GPU": "gpus", "memory": "bytes of memory"}
    return ", ".join(f"{amount:,g} {names[name]}" for name, amount in amounts.items())
