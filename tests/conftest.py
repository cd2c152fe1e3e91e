"""What every test starts from."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Started in the background by a shell, the suite ignores Ctrl-C, and so would what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tensors of tests are small: a second thread only waits, here and in subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Once a test has used Ray, gRPC handles forks, and aborts workers of data loaders.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest
import torch
from hypothesis import settings

from support import tiny, trained_runs


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples where slow tests are deselected."""
    examples = 16 if config.getoption("markexpr") == "not slow" else 100
    # no deadline: the first call of anything is slow
    settings.register_profile("quiesce", deadline=None, max_examples=examples)
    settings.load_profile("quiesce")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let tests that share a fixture of their module run in one process, which makes it once."""
    for item in items:
        made = getattr(item, "_fixtureinfo", None)
        shared = [] if made is None else made.name2fixturedefs.values()
        alone = item.get_closest_marker("xdist_group") is None
        if alone and any(fixture[-1].scope == "module" for fixture in shared):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    if "PYTEST_XDIST_WORKER" in os.environ:
        # the longest first: else one process ends with them while the others wait
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Keep what is imported out of later garbage collections; Trainers ask for full ones."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch alike before each test, whatever the order they run in."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _operators_are_parsed_once() -> None:
    """In every export, onnxscript parses the source of each of its 500 operators again."""
    values = sys.modules.get("onnxscript._internal.values")
    if values is not None and not hasattr(values, "parsed_once"):
        operator = values.TracedOnnxFunction
        operator.function_ir = property(cache(operator.function_ir.fget))
        values.parsed_once = True


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    """Flags that make a run of any recipe take seconds: tiny made-up images, two steps."""
    return tiny.flags()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Callable[..., Path]:
    """`trained(recipe, *flags)`: the folder of a finished tiny run, which tests only read."""
    return trained_runs.trainer_of(tmp_path_factory)


@pytest.fixture
def tiny_run(tiny_flags, tmp_path) -> list[str]:
    """The same, with a run folder of the test's own."""
    return [*tiny_flags, f"--run={tmp_path / 'run'}"]
