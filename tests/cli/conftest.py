"""What the tests of bad input share."""

import numpy as np
import pytest
from PIL import Image

from quiesce.cli import BAD_INPUT, main


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command that must be refused: one line, exit code 2, nothing made; gives the line."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        before = snapshot(tmp_path)
        assert main([str(each) for each in argv]) == BAD_INPUT
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        # the tiny runs of the tests are warned of their few steps
        [line] = [line for line in err.splitlines() if not line.startswith("warning: an epoch")]
        assert line.startswith("quiesce: ")
        assert snapshot(tmp_path) == before
        return f"{line}\n"

    return run


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} | {
        path: 0 for path in folder.rglob("*") if path.is_dir()
    }


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures as ImageNet is kept: two classes, four pictures in each."""
    noise = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / kind
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = noise.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"
