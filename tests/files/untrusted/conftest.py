"""What the tests of reading within limits share."""

import tracemalloc
from contextlib import contextmanager

import pytest


@pytest.fixture
def little_memory():
    """A context that must not need a megabyte."""

    @contextmanager
    def measured():
        tracemalloc.start()
        try:
            yield
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()

    return measured
