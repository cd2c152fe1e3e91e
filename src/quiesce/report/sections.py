"""What the page says, in its order: one section for each question, or a sentence in its place."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quiesce.report.charts.ablation import ablation
from quiesce.report.charts.batchnorm import by_kind, during_training
from quiesce.report.charts.chart import Chart
from quiesce.report.charts.cure import cure
from quiesce.report.charts.histograms import codes, codes_by_layer, offsets, offsets_by_layer
from quiesce.report.charts.over_time import low_bit_shares, over_time
from quiesce.report.charts.probe import other_codes
from quiesce.report.charts.training import training
from quiesce.report.charts.trajectories import weights_over_time
from quiesce.report.numbers import count
from quiesce.report.runs import Group, Run, Subject

SHOWN = 4
"""Most groups that are shown run by run, of each its first run; the others are in tables and
curves."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question, and the charts that answer it."""

    name: str
    """Of its place in the page, for links."""
    title: str
    """Above it."""
    lead: str
    """What is to be seen, in a sentence or two."""
    charts: tuple[Chart, ...] = ()
    """None where a sentence says why."""
    by_run: tuple[Chart, ...] = ()
    """One for each run that is shown, side by side."""
    instead: str = ""
    """Why there are no charts, and how to get them."""
    command: str = ""
    """What to type for it."""


def sections(subject: Subject) -> list[Section]:
    """Return all sections of a page."""
    shown = subject.groups[:SHOWN]
    made = [_sweep(subject)] if subject.swept else []
    return [
        *made,
        _training(subject.groups),
        _schedules(subject.groups),
        _over_time(shown),
        _offsets(shown),
        _codes(shown),
        _trajectories(shown),
        _batchnorm(shown),
        _probe(shown),
    ]


def quiet(run: Run) -> bool:
    """Whether it is known that no low-bit weight oscillates at the end, nor did on the way."""
    at_the_end = run.oscillating == 0 and not run.oscillating_depthwise
    shares = low_bit_shares(run)
    return at_the_end and (shares is None or not np.nansum(shares[1]))


def _sweep(subject: Subject) -> Section:
    charts = [chart for field in subject.swept for chart in ablation(subject.groups, field)]
    waiting = count(len(subject.missing), "planned run")
    missing = f" Not begun yet: {waiting}." if subject.missing else ""
    return Section(
        name="sweep",
        title="What the setting does",
        lead=f"Each point is one setting of the sweep.{missing}",
        charts=tuple(charts),
        instead="" if charts else "No run of the sweep has come to a result yet.",
    )


def _training(groups: Sequence[Group]) -> Section:
    charts = training(groups)
    return Section(
        name="training",
        title="Training",
        lead="All runs on one axis, over the optimizer steps of the quantized stage.",
        charts=tuple(charts),
        instead=""
        if charts
        else "There is no metrics.csv with a step in it: train with csv among trainer.loggers.",
    )


def _schedules(groups: Sequence[Group]) -> Section:
    charts = cure(groups)
    return Section(
        name="schedules",
        title="Schedules",
        lead="The learning rate, and how strong a cure was when.",
        charts=tuple(charts),
        instead=""
        if charts
        else "metrics.csv has no columns for them: runs of quiesce train write lr and cure.",
    )


def _over_time(groups: Sequence[Group]) -> Section:
    lead = "Share of weights of each layer that oscillate. First and last layer are left out where "
    lead += "they have more bits: their codes lie so close that most change, to no harm."
    name, title = "layers-over-time", "Where weights oscillate, and when"
    if all(quiet(group.runs[0]) for group in groups):
        return Section(name=name, title=title, lead=lead, instead="No weight oscillates.")
    found = [low_bit_shares(group.runs[0]) for group in groups]
    top = max((float(np.nanmax(each[1])) for each in found if each is not None), default=0.0)
    charts = [over_time(group.runs[0], group.label, max(top, 1e-4)) for group in groups]
    return _complete(
        name,
        title,
        lead,
        [],
        charts,
        "There is no layers.csv: training writes it when it records, which it does by default.",
    )


def _offsets(groups: Sequence[Group]) -> Section:
    layers = [offsets_by_layer(group.runs[0], group.label) for group in groups]
    return _complete(
        "offsets",
        "Where latents lie between codes",
        "The offset of a latent weight from its code. At -1/2 and 1/2 are the rounding thresholds.",
        [offsets(groups)],
        layers,
        "A diagnosis measures it:",
        _command("diagnose", groups),
    )


def _codes(groups: Sequence[Group]) -> Section:
    layers = [codes_by_layer(group.runs[0], group.label) for group in groups]
    return _complete(
        "codes",
        "Which codes are in use",
        "The integers that weights have in the end.",
        [codes(groups)],
        layers,
        "A diagnosis counts them:",
        _command("diagnose", groups),
    )


def _trajectories(groups: Sequence[Group]) -> Section:
    charts = [weights_over_time(group.runs[0], group.label, i) for i, group in enumerate(groups)]
    return _complete(
        "trajectories",
        "Single weights",
        "Each time the latent crosses a threshold, the code jumps; back and forth is oscillation.",
        [],
        charts,
        "No weights were recorded: set recording.trajectory_steps in the recipe, and train.",
    )


def _batchnorm(groups: Sequence[Group]) -> Section:
    return _complete(
        "batch-norm",
        "Batch-norm statistics",
        "Running statistics are averages over recent steps. Where weights oscillate they are of no "
        "single network, and measuring them again mends that.",
        [by_kind(groups), *during_training(groups)],
        [],
        "A diagnosis measures how far they are off:",
        _command("diagnose", groups),
    )


def _probe(groups: Sequence[Group]) -> Section:
    lead = "The training loss, were the weights that oscillate to rest on other codes."
    name, title = "probe", "What oscillation still costs"
    if all(quiet(group.runs[0]) for group in groups):
        text = "Nothing: no weight oscillates."
        return Section(name=name, title=title, lead=lead, instead=text)
    charts = [other_codes(group.runs[0], group.label, i) for i, group in enumerate(groups)]
    return _complete(name, title, lead, [], charts, "A probe finds out:", _command("probe", groups))


def _complete(
    name: str,
    title: str,
    lead: str,
    charts: Sequence[Chart | None],
    by_run: Sequence[Chart | None],
    instead: str,
    command: str = "",
) -> Section:
    together = tuple(chart for chart in charts if chart is not None)
    single = tuple(chart for chart in by_run if chart is not None)
    there = together or single
    return Section(
        name=name,
        title=title,
        lead=lead,
        charts=together,
        by_run=single,
        instead="" if there else instead,
        command="" if there else command,
    )


def _command(verb: str, groups: Sequence[Group]) -> str:
    return f"quiesce {verb} {shlex.quote(str(groups[0].runs[0].folder))}"
