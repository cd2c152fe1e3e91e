"""Kills training processes at random moments and compares the results: 200 kills.

    python experiments/resume/campaign.py --kills 200 --minutes 3

Every round trains one uninterrupted run, and one that is killed six times and resumed. Half of the
kills are by the clock, half inside a write of a checkpoint. campaign.json has the finished rounds;
the same command continues from there, with the next seed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from measuring import environment  # noqa: E402

from support.killed_runs import Killer, assert_same_run  # noqa: E402

RESULT = Path(__file__).with_name("campaign.json")
KILLS = 6
"""Of each run."""

WRITES = 600
"""Writes to checkpoints, in one of which a process is killed."""

CONDITIONS = {
    "as it is": [],
    "two loader workers": ["--data.workers=2"],
    "accumulated gradients": ["--trainer.accumulate_grad_batches=2"],
    "max_steps": ["--trainer.max_steps=22", "--trainer.max_epochs=9"],
}
"""What is trained besides: seeds take turns."""


def one_round(seed: int, folder: Path) -> dict[str, object]:
    """Train an uninterrupted run and a killed one, and say whether they are equal."""
    name = list(CONDITIONS)[seed % len(CONDITIONS)]
    killer = Killer(seed, [f"--seed={seed}", *CONDITIONS[name]])
    seconds = killer.whole(folder / "whole")
    kills = {"clock": 0, "write": 0}
    for turn in range(KILLS):
        if turn % 2:
            kills["write"] += killer.kill_in_write(folder / "killed", WRITES)
        else:
            kills["clock"] += killer.kill_within(folder / "killed", seconds / 2)
        if (folder / "killed" / "summary.json").exists():
            break  # finished before it was killed
    else:
        killer.whole(folder / "killed")
    try:
        assert_same_run(folder / "whole", folder / "killed")
    except AssertionError as error:
        return {"seed": seed, "run": name, "kills": kills, "same": False, "odd": str(error)[:200]}
    return {"seed": seed, "run": name, "kills": kills, "same": True}


def main() -> None:
    """Run rounds until there are enough kills, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0)
    known = parser.parse_args()
    until_s = time.monotonic() + 60 * known.minutes
    rounds = json.loads(RESULT.read_text())["rounds"] if RESULT.exists() else []
    while total(rounds) < known.kills and time.monotonic() < until_s:
        folder = Path(tempfile.mkdtemp())
        rounds.append(one_round(len(rounds), folder))
        shutil.rmtree(folder)
        write(rounds)
    print(RESULT.read_text())


def total(rounds: list[dict]) -> int:
    """Return the kills of all rounds."""
    return sum(sum(each["kills"].values()) for each in rounds)


def write(rounds: list[dict]) -> None:
    """Write the finished rounds."""
    summary = {
        "kills": total(rounds),
        "kills_inside_a_write": sum(each["kills"]["write"] for each in rounds),
        "runs": len(rounds),
        "runs_that_differ": sum(not each["same"] for each in rounds),
        **environment(),
        "rounds": rounds,
    }
    RESULT.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
