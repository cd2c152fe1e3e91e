"""Draws conditions.svg from results.json: `python experiments/batchnorm/figure.py`."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BITS = ("w3a3", "w2a4", "w2a2")
SETTINGS = (("cosine", "0.05"), ("cosine", "0.2"), ("constant", "0.05"), ("constant", "0.2"))
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # told apart with colour blindness too
ASIDE = 0.14  # of a condition's width, from its middle

mpl.rcParams.update({"svg.hashsalt": "quiesce", "font.size": 9, "axes.spines.top": False})
mpl.rcParams.update({"axes.spines.right": False, "svg.fonttype": "none"})

runs = json.loads((HERE / "results.json").read_text("utf-8"))["runs"]


def values(bits, setting, read):
    """A number of each seed of one condition."""
    name = "-".join((bits, *setting))
    return [read(run) for run in runs if run["name"] == name]


def draw(axes, bits, series):
    """Every seed as a dot, their mean as a bar; one colour and side a series."""
    for side, (label, colour, read) in zip((-ASIDE, ASIDE), series, strict=True):
        for place, setting in enumerate(SETTINGS):
            found = values(bits, setting, read)
            at = [place + side] * len(found)
            axes.plot(at, found, "o", ms=4, color=colour, alpha=0.6, mew=0)
            if found:
                mean = sum(found) / len(found)
                axes.hlines(mean, place + side - 0.1, place + side + 0.1, color=colour, lw=2)
        axes.plot([], [], "o", color=colour, label=label)
    axes.set_xticks(range(len(SETTINGS)), [f"{kind}\n{rate}" for kind, rate in SETTINGS])
    axes.set_xlim(-0.5, len(SETTINGS) - 0.5)
    axes.set_yscale("log")
    axes.grid(axis="y", color=GREY, alpha=0.2)


figure, rows = plt.subplots(2, len(BITS), figsize=(9, 5.4), sharex=True, sharey="row")
for column, bits in enumerate(BITS):
    top, bottom = rows[0][column], rows[1][column]
    top.set_title(bits.upper())
    loss = [
        ("running", ORANGE, lambda run: run["train_loss_in_inference"]["running"]),
        ("re-estimated", BLUE, lambda run: run["train_loss_in_inference"]["reestimated"]),
    ]
    draw(top, bits, loss)
    kl = [
        ("depth-wise", ORANGE, lambda run: run["batchnorm_kl_by_kind"]["depth-wise"]),
        ("point-wise", BLUE, lambda run: run["batchnorm_kl_by_kind"]["point-wise"]),
    ]
    draw(bottom, bits, kl)
rows[0][0].set_ylabel("training loss by statistics, nats")
rows[1][0].set_ylabel("KL of statistics, nats")
rows[1][1].set_xlabel("learning rate: schedule and first value")
for row in rows:
    row[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
figure.tight_layout()
figure.savefig(HERE / "conditions.svg", metadata={"Date": None})
