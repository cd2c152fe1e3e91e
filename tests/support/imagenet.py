"""20 labelled pictures of ImageNet, from the package foolbox."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from quiesce.data import DataConfig, build_data


def labelled_pictures(root: Path) -> tuple[Tensor, Tensor]:
    """Images (20, 3, 224, 224) as EfficientNet-Lite0 takes them, and labels (20,).

    Args:
        root: An empty folder, for the pictures in folders named by class.
    """
    package = importlib.util.find_spec("foolbox")
    assert package is not None
    assert package.origin is not None
    for picture in (Path(package.origin).parent / "data").glob("imagenet_*.jpg"):
        label = int(picture.stem.split("_")[2])
        for half in ("train", "val"):
            folder = root / half / f"{label:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / picture.name).symlink_to(picture)
    config = DataConfig(
        name="folder",
        folder=str(root),
        image_size=224,
        batch_size=20,
        interpolation="bicubic",
        mean=(0.498,),
        std=(0.502,),
    )
    data = build_data(config, seed=0)
    images, labels = next(iter(data.test))
    return images, torch.tensor([int(data.classes[label]) for label in labels])
