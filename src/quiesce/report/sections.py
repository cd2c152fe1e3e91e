"""The sections of the page, in order: one per question, with charts or a sentence instead."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from quiesce.report.charts.ablation import ablation
from quiesce.report.charts.batchnorm import by_kind, during_training
from quiesce.report.charts.chart import Chart
from quiesce.report.charts.codes import codes, codes_by_layer
from quiesce.report.charts.cure import cure
from quiesce.report.charts.offsets import offsets, offsets_by_layer
from quiesce.report.charts.over_time import low_bit_shares, over_time
from quiesce.report.charts.probe import other_codes
from quiesce.report.charts.training import happens, training
from quiesce.report.charts.trajectories import weights_over_time
from quiesce.report.numbers import count
from quiesce.report.run_data import Group, Run, Subject
from quiesce.report.verdict import TOO_FEW_STEPS

SHOWN = 4
"""Largest number of groups shown run by run; tables and curves show all groups."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question with the charts that answer it, or a sentence instead."""

    name: str
    """Identifier of the section, used in links."""
    short: str
    """Title in the list of sections."""
    title: str
    """Heading of the section."""
    lead: str
    """What the charts show, in one or two sentences."""
    charts: tuple[Chart, ...] = ()
    """Charts that show all runs together."""
    by_run: tuple[Chart, ...] = ()
    """One chart for each run shown, side by side."""
    instead: str
    """Text without charts: the reason, and how to get them."""
    command: str = ""
    """Command that produces the missing data."""


def sections(subject: Subject) -> list[Section]:
    """Return all sections of a page."""
    shown = subject.groups[:SHOWN]
    return [
        *([_sweep(subject)] if subject.swept else []),
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
    """Return whether it is known that no low-bit weight oscillates, now or earlier in training."""
    at_the_end = run.oscillating == 0 and not run.oscillating_depthwise
    shares = low_bit_shares(run)
    on_the_way = (shares is not None and np.nansum(shares[1]) > 0) or (
        "oscillating" in run.curves and run.curves["oscillating"].values.any()
    )
    return at_the_end and not on_the_way


def _sweep(subject: Subject) -> Section:
    waiting = count(len(subject.missing), "planned run")
    return Section(
        name="sweep",
        short="Settings",
        title="What the setting does",
        lead="Each point is one setting of the sweep."
        + (f" Not started yet: {waiting}." if subject.missing else ""),
        charts=_there(
            chart for field in subject.swept for chart in ablation(subject.groups, field)
        ),
        instead="Fewer than two settings of the sweep have a result yet.",
    )


def _training(groups: Sequence[Group]) -> Section:
    told = any("oscillating" in run.curves for group in groups for run in group.runs)
    moving = happens(groups, "oscillating")
    return Section(
        name="training",
        short="Training",
        title="Training",
        lead="All runs on one axis, over the optimizer steps of the quantized stage."
        + (f" {_at_rest(groups)}" if told and not moving else ""),
        charts=_there(training(groups)),
        instead="No metrics.csv has two rows, which a curve needs: add csv to trainer.loggers, or "
        "lower trainer.log_every_n_steps.",
    )


def _schedules(groups: Sequence[Group]) -> Section:
    return Section(
        name="schedules",
        short="Schedules",
        title="Schedules",
        lead="The learning rate and the strength of the cure over training.",
        charts=_there(cure(groups)),
        instead="metrics.csv has no columns for them: runs of quiesce train write lr and cure.",
    )


def _over_time(groups: Sequence[Group]) -> Section:
    found = [low_bit_shares(group.runs[0]) for group in groups]
    top = max((float(np.nanmax(each[1])) for each in found if each is not None), default=0.0)
    still, moving = _quiet(groups), _moving(groups)
    return Section(
        name="layers-over-time",
        short="Layers",
        title="Where weights oscillate, and when",
        lead="Share of weights of each layer that oscillate. First and last layers with more bits "
        "are left out: their codes are so close together that most change, without harm."
        + _of_the_quiet(groups),
        by_run=_there(over_time(group.runs[0], group.label, top) for _, group in moving),
        instead=_at_rest(groups)
        if still
        else "There is no layers.csv with two steps: quiesce train writes it if recording.layers "
        "is above 1.",
    )


def _offsets(groups: Sequence[Group]) -> Section:
    return Section(
        name="offsets",
        short="Offsets",
        title="Where latents lie between codes",
        lead="The offset of a latent weight from its code; at -1/2 and 1/2 are the thresholds.",
        charts=_there([offsets(groups)]),
        by_run=_there(offsets_by_layer(group.runs[0], group.label) for group in groups),
        instead="A diagnosis measures it:",
        command=_command("diagnose", groups),
    )


def _codes(groups: Sequence[Group]) -> Section:
    return Section(
        name="codes",
        short="Codes",
        title="Which codes are in use",
        lead="How many weights have each code after training.",
        charts=_there([codes(groups)]),
        by_run=_there(codes_by_layer(group.runs[0], group.label) for group in groups),
        instead="A diagnosis counts them:",
        command=_command("diagnose", groups),
    )


def _trajectories(groups: Sequence[Group]) -> Section:
    still = _quiet(groups)
    return Section(
        name="trajectories",
        short="Single weights",
        title="Single weights",
        lead="The code changes each time the latent weight crosses a threshold. A change back is "
        "an oscillation." + _of_the_quiet(groups),
        by_run=_there(
            weights_over_time(group.runs[0], group.label, i) for i, group in _moving(groups)
        ),
        instead=_at_rest(groups)
        if still
        else "No weights were recorded: set recording.trajectory_steps in the recipe.",
    )


def _batchnorm(groups: Sequence[Group]) -> Section:
    measured = any(group.runs[0].batchnorms for group in groups)
    return Section(
        name="batch-norm",
        short="Batch norm",
        title="Batch-norm statistics",
        lead="Running statistics are averages over recent steps. If weights oscillate, these steps "
        "belong to different networks, and re-estimation corrects the statistics.",
        charts=_there([by_kind(groups), *during_training(groups)]),
        instead="A chart needs two batch norms; the verdict has the number of this one."
        if measured
        else "A diagnosis measures how far they are off:",
        command="" if measured else _command("diagnose", groups),
    )


def _probe(groups: Sequence[Group]) -> Section:
    still = _quiet(groups)
    charts = [other_codes(group.runs[0], group.label, i) for i, group in enumerate(groups)]
    return Section(
        name="probe",
        short="Probe",
        title="What oscillation still costs",
        lead="The training loss if the oscillating weights had other codes.",
        by_run=() if still else _there(charts),
        instead=f"Nothing to probe. {_at_rest(groups)}" if still else "A probe measures it:",
        command="" if still else _command("probe", groups),
    )


def _quiet(groups: Sequence[Group]) -> bool:
    return all(quiet(group.runs[0]) for group in groups)


def _moving(groups: Sequence[Group]) -> list[tuple[int, Group]]:
    """Return the groups whose first run oscillates, with their positions."""
    return [(i, group) for i, group in enumerate(groups) if not quiet(group.runs[0])]


def _at_rest(groups: Sequence[Group]) -> str:
    """Say that no weight oscillates in these runs, or that it is too early to decide."""
    if any(group.runs[0].too_few_steps for group in groups):
        return f"{TOO_FEW_STEPS}."
    return "No low-bit weight oscillates."


def _of_the_quiet(groups: Sequence[Group]) -> str:
    """Name the runs that have no chart because no weight oscillates."""
    still = [group for group in groups if quiet(group.runs[0])]
    if not still or len(still) == len(groups):
        return ""
    told = {sentence: [] for sentence in map(_at_rest, ([group] for group in still))}
    for group in still:
        told[_at_rest([group])].append(group.label)
    return "".join(f" {said[:-1]} in {' and '.join(labels)}." for said, labels in told.items())


def _there(charts: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _command(verb: str, groups: Sequence[Group]) -> str:
    return f"quiesce {verb} {shlex.quote(str(groups[0].runs[0].folder))}"
