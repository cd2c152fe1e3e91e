"""What every test starts from."""

import os
import signal

# Started in the background by a shell, the suite ignores Ctrl-C, and so would what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tensors of tests are small: a second thread only waits, here and in subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from support import tiny

settings.register_profile("quiesce", deadline=None)  # the first call of anything is slow
settings.load_profile("quiesce")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let tests that share a fixture of their module run in one process, which makes it once."""
    for item in items:
        made = getattr(item, "_fixtureinfo", None)
        shared = [] if made is None else made.name2fixturedefs.values()
        if any(fixture[-1].scope == "module" for fixture in shared):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch alike before each test, whatever the order they run in."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    """Flags that make a run of any recipe take seconds: tiny made-up images, two steps."""
    return tiny.flags()


@pytest.fixture
def tiny_run(tiny_flags, tmp_path) -> list[str]:
    """The same, with a run folder of the test's own."""
    return [*tiny_flags, f"--run={tmp_path / 'run'}"]
