"""`quiesce data NAME`: fetch a data set that quiesce can fetch."""

from collections.abc import Sequence
from pathlib import Path

from quiesce.cli.arguments import Arguments
from quiesce.errors import RecipeError, did_you_mean

LICENCES = {
    "google": "Noto Emoji, Apache-2.0",
    "twitter": "Twemoji, CC-BY 4.0",
    "apple": "Apple Color Emoji, all rights reserved by Apple",
    "facebook": "all rights reserved by Meta",
}
"""Maps a vendor to the licence of its pictures."""


def parser() -> Arguments:
    """Return the parser of `quiesce data`."""
    made = Arguments(
        prog="quiesce data",
        description="Fetch a data set. emoji: pictures of emoji, two npm packages of 136 MB, of "
        "which 40 MB are kept; needs npm.",
    )
    made.add_argument("name", metavar="NAME", choices=["emoji"], help="data set: emoji")
    made.add_argument(
        "--vendors",
        default="google,twitter",
        metavar="LIST",
        help=f"whose pictures: {', '.join(LICENCES)} (default: google,twitter)",
    )
    made.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where to put them, for data.folder (default: the cache of quiesce)",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Fetch the data set in `argv`."""
    known = parser().parse_args(argv)
    from quiesce.data.config import VENDORS
    from quiesce.data.emoji_packages import default_folder, fetch, read_package

    vendors = known.vendors.split(",")
    for vendor in vendors:
        if vendor not in VENDORS:
            near = did_you_mean(vendor, VENDORS) or f"vendors: {', '.join(VENDORS)}"
            raise RecipeError(f"--vendors: there is no vendor {vendor!r}; {near}")
    root = known.folder.expanduser() if known.folder else default_folder()
    fetch(vendors, root)
    for vendor in vendors:
        count = len(read_package(root, vendor))
        print(f"{vendor}: {count:,} pictures of 64 x 64 pixels ({LICENCES[vendor]})")
    print(f"in {root}; train on them with --data.name emoji")
    return 0
