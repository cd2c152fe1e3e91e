"""Run docs/tutorial.md, write what each block prints below it, and draw its pictures.

    python docs/figures/tutorial.py

Needs the extra "dev" and Debian's chromium and chromium-driver. It takes about five minutes.
"""

import base64
import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from draw import BOX

from support.browser import opened

PAGE = HERE.parent / "tutorial.md"
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n.*?```", re.DOTALL)
PICTURES = {
    "tutorial-lsq.png": ("lsq.html", ".page > header, #answers"),
    "tutorial-layers.png": ("both.html", "#layers-over-time .charts"),
}


def main() -> None:
    """Run the page in a temporary folder, and write its outputs and pictures."""
    variables: dict[str, object] = {}

    def run(block: re.Match[str]) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block[1], variables)
        text = re.sub(r" +$", "", printed.getvalue(), flags=re.MULTILINE)
        return f"```python\n{block[1]}```\n\n```text\n{text.rstrip()}\n```"

    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        PAGE.write_text(BLOCK.sub(run, PAGE.read_text("utf-8")), "utf-8")
        with opened() as open_page:
            for name, (page, part) in PICTURES.items():
                seen = open_page(Path(page), 1000, "light")
                seen.unfold()
                options = {"clip": seen.run(BOX.format(part)), "captureBeyondViewport": True}
                shot = seen.driver.execute_cdp_cmd("Page.captureScreenshot", options)
                (HERE / name).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
