import subprocess
import sys

import pytest
import torch

from quiesce.data import DataConfig, build_data
from quiesce.errors import DataError, MissingExtraError
from quiesce.extras import require


def test_loaders_classes_and_shape_belong_together() -> None:
    config = DataConfig(
        name="made_up", classes=3, train_images=20, test_images=7, image_size=16, batch_size=8
    )
    data = build_data(config, seed=1)
    images, labels = next(iter(data.train))
    assert data.input_shape == (3, 16, 16)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert data.classes == ("class_0", "class_1", "class_2")
    assert sum(len(batch) for batch, _ in data.test) == 7


def test_the_seed_alone_decides_the_batches() -> None:
    config = DataConfig(name="made_up", train_images=32, batch_size=8)

    def labels(seed: int) -> list[int]:
        return [int(label) for _, batch in build_data(config, seed=seed).train for label in batch]

    first = labels(1)
    torch.rand(3)  # the global generator moves; the batches must not
    assert labels(1) == first
    assert labels(2) != first


def test_reading_leaves_the_global_generator_alone() -> None:
    data = build_data(DataConfig(train_images=16, batch_size=8), seed=1)
    before = torch.get_rng_state()
    next(iter(data.train))
    next(iter(data.test))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="`seed` must be at least 0, got -1"):
        build_data(DataConfig(name="made_up"), seed=-1)


def test_fewer_images_than_a_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"made_up has 5 training images, .* batch of 8; set .* 5"):
        build_data(DataConfig(name="made_up", train_images=5, batch_size=8), seed=0)


@pytest.mark.parametrize("name", ["mnist5k", "cifar10", "folder"])
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    for half in ("train", "val"):
        (tmp_path / half).mkdir()
    for module in ("mlxtend", "mlxtend.data", "torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[train\]'"):
        build_data(DataConfig(name=name, folder=str(tmp_path)), seed=0)


def test_a_package_that_is_broken_is_not_called_missing(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name") as raised:
        require("broken_package", "this test", "train")
    assert not isinstance(raised.value, MissingExtraError)


def test_importing_the_package_imports_no_optional_dependency() -> None:
    code = (
        "import sys, quiesce.data, quiesce.models.build; "
        "print(sorted({'torchvision', 'mlxtend', 'timm', 'torchdata'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
