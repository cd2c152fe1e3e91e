import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy
import pytest
import torch
from PIL import Image

from quiesce.cli import main
from quiesce.data import DataConfig, build_data, emoji_packages
from quiesce.data.emoji_packages import VERSION
from quiesce.errors import DataError
from support.messages import tells

CATEGORIES = ("Objects", "Flags", "Component")
PUBLISHED = 40
"""Emoji of a made-up package; a third of them are components, and two have no picture."""


def unified(number: int) -> str:
    return f"1F{number:03X}"


def picture(number: int) -> Image.Image:
    """A transparent picture with a red square, of one size for each number."""
    pixels = numpy.zeros((64, 64, 4), dtype=numpy.uint8)
    pixels[: number + 1, : number + 1] = (255, 0, 0, 255)
    return Image.fromarray(pixels)


def package(root: Path, vendor: str, version: str = VERSION) -> Path:
    """Make a package as npm unpacks it."""
    folder = root / f"emoji-datasource-{vendor}"
    pictures = folder / "img" / vendor / "64"
    pictures.mkdir(parents=True)
    listed = []
    for number in range(PUBLISHED):
        name = f"{unified(number).lower()}.png"
        listed.append(
            {"unified": unified(number), "image": name, "category": CATEGORIES[number % 3]}
        )
        if number not in (3, 4):
            picture(number).save(pictures / name)
    (folder / "emoji.json").write_text(json.dumps(listed))
    name = f"emoji-datasource-{vendor}"
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    return folder


@pytest.fixture
def packages(tmp_path) -> Path:
    for vendor in ("google", "twitter"):
        package(tmp_path, vendor)
    return tmp_path


def config(folder: Path | None, **fields) -> DataConfig:
    where = None if folder is None else str(folder)
    return DataConfig(name="emoji", folder=where, **{"batch_size": 4, **fields})


def refused(folder: Path | None, **fields) -> str:
    with pytest.raises(DataError) as raised:
        build_data(config(folder, **fields), seed=0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_emoji_is_in_the_same_half_for_all_vendors(packages) -> None:
    numbers = [n for n in range(PUBLISHED) if n % 3 != 2 and n not in (3, 4)]
    test = [n for n in numbers if crc32(unified(n).encode()) % 5 == 0]
    for vendors in (("google",), ("google", "twitter")):
        data = build_data(config(packages, vendors=vendors, augment="none"), seed=0)
        assert data.classes == ("Flags", "Objects")
        assert data.input_shape == (3, 64, 64)
        assert len(data.train.dataset) == len(vendors) * (len(numbers) - len(test))
        labels = [label for _, batch in data.test for label in batch.tolist()]
        assert labels == [1 - n % 3 for n in test] * len(vendors)


def test_a_picture_is_on_white_and_normalised(packages) -> None:
    data = build_data(config(packages, mean=(0.0,), std=(1.0,)), seed=0)
    number = next(n for n in range(PUBLISHED) if crc32(unified(n).encode()) % 5 == 0 and n % 3 != 2)
    expected = torch.ones(3, 64, 64)
    expected[1:, : number + 1, : number + 1] = 0
    image, _ = data.test.dataset[0]
    torch.testing.assert_close(image, expected)


def test_pictures_are_resized_and_only_training_images_are_changed(packages) -> None:
    data = build_data(config(packages, image_size=32), seed=0)
    assert data.input_shape == (3, 32, 32)
    assert not torch.equal(data.train.dataset[0, 5][0], data.train.dataset[1, 5][0])
    plain = build_data(config(packages, image_size=32, augment="none"), seed=0)
    assert torch.equal(plain.train.dataset[0, 5][0], plain.train.dataset[1, 5][0])


def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    missing = tmp_path / "quiesce" / "emoji" / "emoji-datasource-google" / "package.json"
    assert tells(refused(None), missing, "quiesce data emoji", VERSION)


def test_damaged_packages_are_one_line(packages) -> None:
    folder = packages / "emoji-datasource-google"
    listed = (folder / "emoji.json").read_text()
    (folder / "emoji.json").write_text(listed[:100])
    assert tells(refused(packages), folder, "damaged")
    (folder / "emoji.json").write_text('[{"unified": 3}]')
    assert tells(refused(packages), folder, "damaged", "unified")
    (folder / "emoji.json").write_text(listed)
    name = folder / "img" / "google" / "64" / f"{unified(6).lower()}.png"
    name.write_bytes(name.read_bytes()[:60])
    assert tells(refused(packages), name, "cannot be decoded")


def test_another_version_is_refused(tmp_path) -> None:
    folder = package(tmp_path, "google", "15.1.2")
    assert tells(refused(tmp_path, vendors=("google",)), folder, "15.1.2", VERSION)


def test_no_pictures_are_refused(packages) -> None:
    shutil.rmtree(packages / "emoji-datasource-google" / "img")
    assert tells(refused(packages, vendors=("google",)), packages, " 0 ")


@pytest.mark.parametrize("vendors", [(), ("google", "google"), ("microsoft",)])
def test_wrong_vendors_name_the_field(vendors: tuple) -> None:
    with pytest.raises(ValueError, match="`vendors` must be"):
        DataConfig(vendors=vendors)


MakeNpm = Callable[[str], None]


@pytest.fixture
def npm(tmp_path, monkeypatch) -> MakeNpm:
    """Puts a program called npm first, which runs a line of a shell in the folder to pack into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(line: str) -> None:
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return make


def archive(tmp_path: Path, vendor: str) -> Path:
    """A package as npm packs it, with a file more."""
    folder = package(tmp_path / "made", vendor)
    folder = folder.rename(tmp_path / "package")
    (folder / "huge.png").write_bytes(b"not needed")
    packed = tmp_path / f"{vendor}.tgz"
    subprocess.run(["tar", "czf", packed, "-C", tmp_path, "package"], check=True)
    shutil.rmtree(folder)
    return packed


def test_the_command_fetches_a_package_once_and_keeps_what_is_needed(tmp_path, npm, capsys) -> None:
    npm(f'[ "$4" = . ] || cp {archive(tmp_path, "google")} .')
    assert main(["data", "emoji", "--vendors", "google"]) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "cache" / "quiesce" / "emoji"
    assert tells(told, folder, str(PUBLISHED - 2), "Apache-2.0")
    assert {path.name for path in folder.rglob("*.*") if path.suffix != ".png"} == {
        "emoji.json",
        "package.json",
    }
    assert not list(folder.rglob("huge.png"))
    assert len(build_data(config(None, vendors=("google",)), seed=0).train.dataset) > 8
    npm("exit 1")
    assert main(["data", "emoji", "--vendors", "google"]) == 0


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", ["ENOTFOUND", "emoji-datasource-google"]),
        ("exit 0", ["emoji-datasource-google"]),
        ("echo damaged > x.tgz", ["damaged"]),
    ],
)
def test_npm_that_fails_is_one_line_and_leaves_nothing(line, parts, tmp_path, npm, capsys) -> None:
    npm(line)
    assert main(["data", "emoji", "--folder", str(tmp_path / "here")]) == 2
    told = capsys.readouterr().err
    assert tells(told, *parts)
    assert told.count("\n") == 1
    assert list((tmp_path / "here").iterdir()) == []


def test_without_npm_it_says_how_to_do_it_by_hand(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["data", "emoji", "--folder", str(tmp_path / "here")]) == 2
    told = capsys.readouterr().err
    assert tells(told, "npm", "Node.js", "emoji-datasource-twitter", VERSION, "data.folder")


def test_an_unknown_vendor_or_data_set_is_one_line(capsys) -> None:
    assert main(["data", "emoji", "--vendors", "gogle"]) == 2
    assert tells(capsys.readouterr().err, "gogle", "did you mean 'google'?")
    assert main(["data", "mnist"]) == 2
    assert tells(capsys.readouterr().err, "mnist", "emoji")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_the_published_packages(tmp_path, capsys) -> None:
    if main(["data", "emoji", "--folder", str(tmp_path)]):
        pytest.skip(capsys.readouterr().err)
    data = build_data(config(tmp_path), seed=0)
    assert len(data.classes) == 9
    assert (len(data.train.dataset), len(data.test.dataset)) == (3064, 748)
    pixels = data.train.dataset.images.images.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(mean, torch.tensor(data.mean).double(), atol=5e-4, rtol=0)
    torch.testing.assert_close(std, torch.tensor(data.std).double(), atol=5e-4, rtol=0)


def test_the_version_to_fetch_is_that_of_the_packages(packages, monkeypatch) -> None:
    monkeypatch.setattr(emoji_packages, "VERSION", "17.0.0")
    assert tells(refused(packages), "17.0.0", VERSION)
