"""A data set of the user: taken as it is, or refused with what is wrong."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.utils.data import TensorDataset

from quiesce.data import DataConfig, build_data
from quiesce.data.images import Images
from quiesce.errors import DataError, RecipeError

CONFIG = DataConfig(name="own_images:make", batch_size=4, folder="here")


def halves(count=8, shape=(3, 6, 6), dtype=torch.float32, label=1):
    labels = torch.full((count,), label)
    return TensorDataset(torch.zeros(count, *shape, dtype=dtype), labels)


GOOD = Images(train=halves(), test=halves(3), classes=("a", "b"), input_shape=(3, 6, 6))


@pytest.fixture
def makes(monkeypatch):
    """Lets a module own_images return something."""

    def use(returned):
        module = ModuleType("own_images")
        module.make = lambda config, seed: returned  # pyright: ignore
        monkeypatch.setitem(sys.modules, "own_images", module)

    return use


def test_images_become_loaders(makes):
    makes(GOOD)
    data = build_data(CONFIG, seed=0)
    images, labels = next(iter(data.train))
    assert images.shape == (4, 3, 6, 6)
    assert labels.tolist() == [1, 1, 1, 1]
    assert sum(len(labels) for _, labels in data.test) == 3
    assert data.classes == ("a", "b")
    assert data.mean is data.std is None


def test_the_function_gets_the_section_and_the_seed(monkeypatch):
    got = {}

    def make(config, seed):
        got.update(config=config, seed=seed)
        return GOOD

    module = ModuleType("own_images")
    module.make = make  # pyright: ignore
    monkeypatch.setitem(sys.modules, "own_images", module)
    build_data(CONFIG, seed=7)
    assert got == {"config": CONFIG, "seed": 7}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ((1, 2), "must return quiesce.data.images.Images, and returns tuple"),
        (replace(GOOD, classes=("a",)), "two names or more"),
        (replace(GOOD, train=[]), "train holds no image"),
        (replace(GOOD, test=iter(())), "test must have __len__"),
        (replace(GOOD, test=[torch.zeros(3, 6, 6)]), r"test\[0\] must be an image and"),
        (replace(GOOD, train=halves(shape=(1, 6, 6))), "got float32 1 6 6"),
        (replace(GOOD, train=halves(dtype=torch.uint8)), "got uint8 3 6 6"),
        (replace(GOOD, test=halves(label=2)), r"0 to 1, got tensor\(2\)"),
        (replace(GOOD, test=[(torch.zeros(3, 6, 6), "b")]), "0 to 1, got 'b'"),
        (replace(GOOD, mean=(0.5,), std=(0.2,) * 3), "a number for each channel"),
    ],
)
def test_what_is_no_data_set_is_refused(returned, told, makes):
    makes(returned)
    with pytest.raises(DataError, match=told) as raised:
        build_data(CONFIG, seed=0)
    assert "own_images:make" in str(raised.value)


def test_an_item_that_fails_is_told_with_its_line(makes):
    class Fails(TensorDataset):
        def __getitem__(self, index):
            raise OSError("no such file")

    makes(replace(GOOD, train=Fails(torch.zeros(4))))
    with pytest.raises(RecipeError, match=r"train\[0\] fails in test_user_data\.py, line"):
        build_data(CONFIG, seed=0)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mnist5k'"):
        DataConfig(name="mnist5")
