"""Pictures a second of each source of pictures, beside bare PIL; writes results/data.json.

The pictures are photographs of ImageNet (20 of them are inside the package foolbox), enlarged to
the 500 × 375 pixels that ImageNet's have on average, cut differently each time and saved as JPEG.
They are in the page cache: this measures the code, not the disk.

- decoding: each picture is read and decoded to RGB, in the order of an epoch. Bare PIL opens the
  files of `folder` one after the other.
- batches: the training loader at 224 pixels, in the training process. Bare PIL opens the files,
  applies the same transforms, and stacks the tensors.

Usage: python benchmarks/data.py [--pictures 400] [--rounds 9]
"""

import argparse
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import foolbox
import torch
import webdataset
from measuring import interleaved, ratio, save
from PIL import Image

from quiesce.data import DataConfig, build_data
from quiesce.data.pictures import transform_of

SIZE = (500, 375)
BATCH = 32
CLASSES = ("even", "odd")
SHARDS = 4


def pictures(count: int) -> Iterator[bytes]:
    """Yield JPEG files."""
    folder = Path(foolbox.__file__).parent / "data"
    originals = sorted(folder.glob("imagenet_*"))
    for number in range(count):
        with Image.open(originals[number % len(originals)]) as opened:
            whole = opened.convert("RGB")
        cut = number // len(originals) % 16
        box = (cut, cut, whole.width - cut, whole.height - cut)
        file = io.BytesIO()
        whole.resize(SIZE, Image.Resampling.BICUBIC, box=box).save(file, "JPEG", quality=90)
        yield file.getvalue()


def written(root: Path, count: int) -> dict[str, DataConfig]:
    """Write the same pictures for each source, and return its config."""
    files = list(pictures(count))
    for half, part in (("train", files), ("val", files[:2])):
        for number, content in enumerate(part):
            path = root / "folder" / half / CLASSES[number % 2] / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        pattern = str(root / f"{half}-%02d.tar")
        with webdataset.ShardWriter(pattern, maxcount=count // SHARDS, verbose=0) as writer:
            for number, content in enumerate(part):
                writer.write({"__key__": f"{number:05d}", "jpg": content, "cls": number % 2})
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    splits = {
        half: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": content, "path": None} for content in part],
                "label": [number % 2 for number in range(len(part))],
            },
            features=datasets.Features(kinds),
        )
        for half, part in (("train", files), ("test", files[:2]))
    }
    datasets.DatasetDict(splits).save_to_disk(root / "saved")
    options: dict[str, Any] = {"batch_size": BATCH, "check_up_to": 0}
    shards = {"train_shards": f"{root}/train-*.tar", "test_shards": f"{root}/val-*.tar"}
    return {
        "folder": DataConfig(name="folder", folder=str(root / "folder"), **options),
        "huggingface": DataConfig(name="huggingface", folder=str(root / "saved"), **options),
        "webdataset": DataConfig(name="webdataset", **shards, **options),
    }


def pil(paths: list[Path]) -> None:
    """Decode files."""
    for path in paths:
        with Image.open(path) as opened:
            opened.convert("RGB")


def pil_batches(paths: list[Path], transform: Callable[[Any], torch.Tensor]) -> None:
    """Decode and transform files, and stack batches."""
    for begin in range(0, len(paths) - BATCH + 1, BATCH):
        batch = []
        for path in paths[begin : begin + BATCH]:
            with Image.open(path) as opened:
                batch.append(transform(opened.convert("RGB")))
        torch.stack(batch)


def decoding(config: DataConfig) -> Callable[[], None]:
    """Return a function that decodes all training pictures in the order of an epoch."""
    loader = build_data(config, seed=0).train
    images: Any = loader.dataset.images  # pyright: ignore[reportAttributeAccessIssue]

    def call() -> None:
        for _, index in loader.sampler:
            if config.name == "folder":
                images.loader(images.samples[index][0])
            else:
                images.decoded(index)

    return call


def batches(config: DataConfig) -> Callable[[], None]:
    """Return a function that reads an epoch of the training loader."""
    loader = build_data(config, seed=0).train

    def call() -> None:
        for _ in loader:
            pass

    return call


def main() -> None:
    """Measure all sources in turn, and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    known = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        configs = written(root, known.pictures)
        paths = sorted((root / "folder" / "train").rglob("*.jpg"))
        mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
        transform = transform_of(configs["folder"], 224, training=True)
        actions = {
            "decoding": {
                "PIL": lambda: pil(paths),
                **{name: decoding(config) for name, config in configs.items()},
            },
            "batches": {
                "PIL": lambda: pil_batches(paths, transform),
                **{name: batches(config) for name, config in configs.items()},
            },
        }
        results = {}
        for what, calls in actions.items():
            samples = interleaved(calls, rounds=known.rounds, warmup=1)
            count = len(paths) if what == "decoding" else len(paths) // BATCH * BATCH
            results[what] = {
                "pictures_per_s": {name: count / median(each) for name, each in samples.items()},
                "of_PIL": {name: 1 / ratio(samples, name, "PIL") for name in configs},
                "samples_s": samples,
            }
            print(what, results[what]["pictures_per_s"], results[what]["of_PIL"])
    shape = {"pictures": len(paths), "size": SIZE, "mean_bytes": mean_bytes, "batch": BATCH}
    save("data", {**shape, **results})


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main()
