"""Draw the pictures of README and docs: parts of the report's page, as a browser shows them.

    make demo
    quiesce report runs/demo --time
    python docs/figures/draw.py runs/demo/{lsq,dampening,freezing}-seed0

Needs the extra "dev" and Debian's chromium and chromium-driver.
"""

import base64
import sys
import tempfile
from pathlib import Path

from quiesce.report.collect import collect
from quiesce.report.page import page

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from support.browser import opened

PICTURES = {
    "report-opening.png": ".page > header, #answers",
    "offsets.png": "#offsets figure.wide",
    "layers-over-time.png": "#layers-over-time .charts",
}
BOX = """
const boxes = [...document.querySelectorAll("{}")].map((part) => part.getBoundingClientRect());
const [x, y] = [Math.min(...boxes.map((box) => box.x)), Math.min(...boxes.map((box) => box.y))];
const right = Math.max(...boxes.map((box) => box.right));
const bottom = Math.max(...boxes.map((box) => box.bottom));
return {{ x: x + scrollX - 16, y: y + scrollY - 16, width: right - x + 32, height: bottom - y + 32,
         scale: 1.5 }};
"""


def main(folders: list[str]) -> None:
    """Write the pictures about some runs beside this file."""
    with tempfile.TemporaryDirectory() as scratch, opened() as open_page:
        report = Path(scratch) / "report.html"
        report.write_text(page(collect([Path(folder) for folder in folders])), "utf-8")
        seen = open_page(report, 1100, "light")
        seen.unfold()
        for name, part in PICTURES.items():
            options = {"clip": seen.run(BOX.format(part)), "captureBeyondViewport": True}
            shot = seen.driver.execute_cdp_cmd("Page.captureScreenshot", options)
            (HERE / name).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main(sys.argv[1:])
