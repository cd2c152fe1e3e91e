"""Seconds until the first training step is done; writes results/first_step.json.

Usage: python benchmarks/first_step.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import save


def first_steps() -> dict[str, float]:
    """Time the first step in "quantizers" mode in a new process, without and with a cache."""
    code = (
        "import time; from networks import *; b = data(16, 96);"
        "call = cure_steps('mobilenetv2_100', 'quantizers', b)['freezing'];"
        "t = time.perf_counter(); call(); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    cwd=Path(__file__).parent,
                    env=env,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for _ in range(2)
        ]
    return {"first run": seconds[0], "second run": seconds[1]}


def main() -> None:
    """Measure, print the results, and write the file."""
    seconds = first_steps()
    print(seconds)
    print(save("first_step", {"seconds": seconds}))


if __name__ == "__main__":
    main()
