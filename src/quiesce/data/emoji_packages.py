"""The npm packages of the data set emoji: fetching them, and reading their lists of pictures."""

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import DecodeError, Struct, ValidationError, json

from quiesce.errors import DataError, first_line
from quiesce.files.atomic import full_disk_named
from quiesce.files.cache import cache_folder

VERSION = "16.0.0"
NEEDED = ("package.json", "emoji.json", "LICENSE")
"""Files of a package that are kept, besides the pictures."""
LONGEST_S = 600.0
"""Seconds after which npm is ended."""


class Emoji(Struct):
    """One entry of emoji.json; `load` of `quiesce.data.emoji` uses these fields."""

    unified: str
    """Code points, such as "1F600"."""
    image: str
    """Name of the file."""
    category: str


class _Package(Struct):
    version: str


def default_folder() -> Path:
    """Return the folder in which `fetch` puts the packages."""
    return cache_folder() / "emoji"


def read_package(root: Path, vendor: str) -> list[tuple[Emoji, Path]]:
    """Return the entries of a package with a picture, in their order, and their files.

    Args:
        root: Folder of the packages, such as node_modules.
        vendor: One of `config.VENDORS`.

    Raises:
        DataError: The package is not there, damaged, or of another version than `VERSION`.
    """
    folder = root / _name(vendor)
    try:
        version = json.decode((folder / "package.json").read_bytes(), type=_Package).version
        listed = json.decode((folder / "emoji.json").read_bytes(), type=list[Emoji])
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is missing; run `quiesce data emoji`, or {by_hand([vendor])}"
        ) from error
    except (OSError, DecodeError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{folder} is damaged: {first_line(error)}") from error
    if version != VERSION:
        raise DataError(f"{folder} is version {version} and must be {VERSION}: other pictures")
    pictures = folder / "img" / vendor / "64"
    found = [(emoji, pictures / emoji.image) for emoji in listed]
    return [(emoji, path) for emoji, path in found if path.is_file()]


def fetch(vendors: Sequence[str], root: Path) -> list[Path]:
    """Fetch packages that are not in `root` yet, through npm, and return their folders.

    Args:
        vendors: Each one of `config.VENDORS`.
        root: Folder that gets a folder for each package.

    Raises:
        DataError: npm is missing or fails, or a package does not hold the pictures.
        DiskFullError: There is no space.
    """
    npm = shutil.which("npm")
    folders = [root / _name(vendor) for vendor in vendors]
    missing = [v for v, folder in zip(vendors, folders, strict=True) if not folder.is_dir()]
    if missing and npm is None:
        raise DataError(f"npm is not installed; install Node.js, or {by_hand(missing)}")
    with full_disk_named(root):
        root.mkdir(parents=True, exist_ok=True)
        for vendor in missing:
            with TemporaryDirectory(prefix=".fetching-", dir=root) as beside:
                _fetch(str(npm), vendor, Path(beside)).replace(root / _name(vendor))
    return folders


def by_hand(vendors: Sequence[str]) -> str:
    """Return how to get packages without this module."""
    names = " and ".join(_name(vendor) for vendor in vendors)
    return f"unpack the npm package {names} {VERSION} in a folder of its name; see data.folder"


def _name(vendor: str) -> str:
    return f"emoji-datasource-{vendor}"


def _fetch(npm: str, vendor: str, beside: Path) -> Path:
    """Fetch and unpack a package, and return its folder."""
    package = f"{_name(vendor)}@{VERSION}"
    command = [npm, "pack", "--silent", "--pack-destination", str(beside), package]
    try:
        done = subprocess.run(
            command, cwd=beside, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm took more than {LONGEST_S:.0f} s to fetch {package}") from error
    archives = list(beside.glob("*.tgz"))
    if done.returncode or not archives:
        told = " ".join((done.stderr or done.stdout).split())
        raise DataError(f"npm cannot fetch {package}: {told[:300]}; or {by_hand([vendor])}")
    wanted = f"package/img/{vendor}/64/"
    try:
        with tarfile.open(archives[0]) as tar:
            members = [
                member
                for member in tar
                if member.isfile()
                and (
                    member.name.startswith(wanted) or member.name.removeprefix("package/") in NEEDED
                )
            ]
            tar.extractall(beside, members=members, filter="data")
    except tarfile.TarError as error:
        raise DataError(f"{package} from npm is damaged: {first_line(error)}") from error
    if not (beside / wanted).is_dir():
        raise DataError(f"{package} from npm holds no pictures in {wanted}")
    return beside / "package"
