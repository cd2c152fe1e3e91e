"""Thousands of changed files of each kind: `make fuzz`.

    python tests/fuzz/nightly.py [--files 2000] [--kinds ckpt,onnx] [--seconds 170]

Each file has a number, which is the seed of how it is changed, so `--only KIND:NUMBER` shows one
again. Every kind is tried in a process of its own, which a crash ends and a new one goes on after.
A call goes on where results.json ends; it ends with code 1 if a file was not taken or refused in
one line, within the limits of time and memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(HERE.parent))


def child(kind: str, first: int, last: int, until_s: float) -> None:
    """Try files of one kind and print a line of JSON for each."""
    import warnings

    from fuzz.kinds import KINDS
    from fuzz.trying import Ground

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "around", "inside")
        place.mkdir(parents=True)
        ground = Ground(KINDS[kind], place)
        if not ground.sound():
            raise SystemExit(f"{kind}: the sound files are refused")
        for seed in range(first, last):
            if time.time() > until_s:
                return
            print(json.dumps({"trying": seed}), flush=True)
            try:
                tried = ground.tried(seed)
            except BaseException as error:
                traceback.print_exc()
                print(json.dumps({"seed": seed, "wrong": f"{type(error).__name__}: {error}"}))
                continue
            print(json.dumps({"seed": seed, **vars(tried)}), flush=True)


def try_kind(kind: str, known: dict[str, Any], last: int, until_s: float) -> None:
    """Go on with a kind until its last file or the time is up; adds to what is known of it."""
    while known["files"] < last and time.time() < until_s:
        arguments = [kind, str(known["files"]), str(last), str(until_s)]
        command = [sys.executable, __file__, "--child", *arguments]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        if not lines and ran.returncode == 0:
            return  # the time was up before its sound files were made
        if not lines:
            raise SystemExit(f"{kind}: nothing was tried (exit code {ran.returncode})")
        for line in lines:
            add(known, line)
        if "trying" in lines[-1]:
            add(known, {"seed": lines[-1]["trying"], "wrong": f"exit code {ran.returncode}"})


def add(known: dict[str, Any], line: dict[str, Any]) -> None:
    """Count one file."""
    if "trying" in line:
        return
    known["files"] = line["seed"] + 1
    if "wrong" in line:
        known["wrong"][str(line["seed"])] = line["wrong"][:300]
        return
    known["taken" if line["taken"] else "refused"] += 1
    known["peak_mb"] = max(known["peak_mb"], round(line["bytes"] / 2**20))
    known["slowest_s"] = max(known["slowest_s"], round(line["seconds"], 2))


def main() -> int:
    """Try all kinds; 1 where a file did harm."""
    from fuzz.kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000, help="of each kind (2000)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: all")
    parser.add_argument("--seconds", type=float, default=24 * 3600, help="stop after so many")
    parser.add_argument("--again", action="store_true", help="forget the results so far")
    parser.add_argument("--results", type=Path, default=RESULTS, help="goes on where it ends")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="try one file, and show what happens")
    known = parser.parse_args()
    if known.only:
        kind, _, seed = known.only.partition(":")
        child(kind, int(seed), int(seed) + 1, time.time() + 600)
        return 0
    until_s = time.time() + known.seconds
    results: dict[str, Any] = {"seeds": "0 to files - 1, of each kind", "kinds": {}}
    if known.results.exists() and not known.again:
        results = json.loads(known.results.read_text())
    for kind in known.kinds.split(","):
        empty = {"files": 0, "taken": 0, "refused": 0, "peak_mb": 0, "slowest_s": 0.0, "wrong": {}}
        try_kind(kind, results["kinds"].setdefault(kind, empty), known.files, until_s)
        results["machine"] = machine()
        known.results.write_text(json.dumps(results, indent=2) + "\n")
    wrong = Counter({kind: len(each["wrong"]) for kind, each in results["kinds"].items()})
    print(
        f"{sum(each['files'] for each in results['kinds'].values())} files; wrong: {dict(+wrong)}"
    )
    return 1 if wrong.total() else 0


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    from importlib.metadata import version

    packages = ("torch", "numpy", "safetensors", "onnx", "onnxruntime", "PyYAML", "lightning")
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, first, last, until_s = sys.argv[2:]
        child(kind, int(first), int(last), float(until_s))
    else:
        sys.exit(main())
