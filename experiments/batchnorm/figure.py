"""Draws conditions.svg from results.json: `python experiments/batchnorm/figure.py`."""

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

HERE = Path(__file__).parent
CONDITIONS = {
    "W8A8, constant": "w8a8-constant-0.05",
    "W3A3, cosine, to 4 %": "w3a3-cosine-0.05",
    "W3A3, cosine, to 4 %, from 0.2": "w3a3-cosine-0.2",
    "W3A3, constant": "w3a3-constant-0.05",
    "W3A3, constant 0.2": "w3a3-constant-0.2",
    "W3A3, constant, dampening": "w3a3-constant-0.05-dampening",
    "W3A3, constant, freezing": "w3a3-constant-0.05-freezing",
    "W2A4, cosine, to 4 %": "w2a4-cosine-0.05",
    "W2A4, constant": "w2a4-constant-0.05",
    "W2A2, cosine, to 4 %": "w2a2-cosine-0.05",
    "W2A2, constant": "w2a2-constant-0.05",
}
PANELS = {
    "training loss, nats, by statistics": {
        "running": ("train_loss_in_inference", "running"),
        "re-estimated": ("train_loss_in_inference", "reestimated"),
    },
    "KL(population || running), nats": {
        "depth-wise": ("batchnorm_kl_by_kind", "depth-wise"),
        "point-wise": ("batchnorm_kl_by_kind", "point-wise"),
    },
    "oscillating share of low-bit weights": {"oscillating": ("oscillating",)},
}
COLOURS = ("#d55e00", "#0072b2")  # told apart with colour blindness too
ASIDE = 0.16  # of a row's height, from its middle

mpl.rcParams.update({"svg.hashsalt": "quiesce", "svg.fonttype": "none", "font.size": 9})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def number(run, path):
    """Return the number of a run at `path`."""
    for key in path:
        run = run[key]
    return run


def draw(axes, title, series, runs):
    """Draw every seed as a dot and their mean as a bar; each series has a colour and a side."""
    sides = (-ASIDE, ASIDE) if len(series) > 1 else (0.0,)
    for side, colour, (label, path) in zip(sides, COLOURS, series.items(), strict=False):
        for row, name in enumerate(CONDITIONS.values()):
            found = [number(run, path) for run in runs if run["name"] == name]
            axes.plot(found, [row + side] * len(found), "o", ms=4, mew=0, alpha=0.6, color=colour)
            if found:
                mean = sum(found) / len(found)
                axes.vlines(mean, row + side - 0.13, row + side + 0.13, color=colour, lw=2)
        axes.plot([], [], "o", color=colour, label=label)
    axes.set_xlabel(title)
    axes.grid(axis="x", alpha=0.2)
    if title.startswith("KL"):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(series) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0))


results = json.loads((HERE / "results.json").read_text("utf-8"))
figure, panels = plt.subplots(1, len(PANELS), figsize=(10, 5), sharey=True)
for axes, (title, series) in zip(panels, PANELS.items(), strict=True):
    draw(axes, title, series, results["runs"])
panels[0].set_yticks(range(len(CONDITIONS)), CONDITIONS)
panels[0].invert_yaxis()
figure.tight_layout()
figure.savefig(HERE / "conditions.svg", metadata={"Date": None})
