"""Answers the questions with which a page opens; docs/report.md lists them.

Each question has one function, which maps a group of runs to an answer. What several runs share is
told of the first one; accuracies are means over the seeds.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quiesce.report import verdict
from quiesce.report.numbers import cell, count, mean, size, times
from quiesce.report.run_data import Group, Run

SAME_POINTS = 0.05
"""Difference of top-1, in percentage points, that one decimal does not show."""

NOT_TIMED = "Not measured: quiesce report RUN --time exports the network and measures it."


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question about a group."""

    text: str
    """One or two sentences, as plain text."""
    tone: Literal["good", "note", "bad"] = "note"
    """How the page marks it."""


def network(group: Group) -> Answer:
    """Name the network, its size and its data."""
    run = group.runs[0]
    told = [run.network or "A network without a name"]
    if run.layers:
        weights = sum(layer.weights for layer in run.layers)
        layers = count(len(run.layers), "quantized layer")
        told.append(f"{count(weights, 'weight')} in {layers}")
    if "data" in run.facts:
        told.append(f"trained on {run.facts['data']}")
    return Answer(text=f"{', '.join(told)}.")


def bits(group: Group) -> Answer:
    """Tell the bits of weights, of activations, and of the first and last layers."""
    run, scheme = group.runs[0], group.runs[0].scheme
    weights = run.low_bits if scheme is None or scheme.weight_bits is None else scheme.weight_bits
    if weights is None:
        return Answer(text="Not known: there is no recipe and no diagnosis.")
    text = f"{weights} for weights"
    if scheme is not None:
        acts = scheme.act_bits
        text += f", {acts} for activations" if acts is not None else "; activations are floats"
    ends = {layer.bits for layer in run.other_layers if layer.bits is not None}
    if scheme is not None and scheme.first_last_bits not in (None, weights):
        text += f"; {scheme.first_last_bits} in the first and last layers"
    elif ends:
        text += f"; {' and '.join(map(str, sorted(ends)))} in the other layers"
    return Answer(text=f"{text}.")


def quality(group: Group) -> Answer:
    """Compare the accuracy with that of the float network."""
    runs = group.runs
    final = cell([verdict.final_top1(run) for run in runs], 1)
    now, before = mean(map(verdict.final_top1, runs)), mean(run.top1_float for run in runs)
    score = cell([run.metric for run in runs], 4)
    scored = any(run.metric is not None for run in runs)
    stopped = [run for run in runs if not run.finished]
    end = f" So far: it stopped at step {stopped[0].steps:,}, or still runs." if stopped else ""
    if now is None:
        loss = cell([run.train_loss for run in runs], 3)
        text = f"{score} by the metric of the recipe." if scored else "Accuracy was not measured."
        if any(run.train_loss is not None for run in runs):
            text += f" The training loss is {loss}."
        return Answer(text=text + end)
    seeds = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
    text = f"{final} % top-1{seeds}"
    text += f", {score} by the metric of the recipe" if scored else ""
    if before is None:
        return Answer(text=f"{text}; the float network was not measured.{end}")
    if abs(now - before) < SAME_POINTS:
        text += f", as much as the float network ({before:.1f} %)"
    else:
        word = "more" if now > before else "less"
        text += f", {abs(now - before):.1f} points {word} than the float network ({before:.1f} %)"
    lost = before - now
    tone = "good" if lost < verdict.LOST_POINTS else "note"
    if now < verdict.HEALTHY_SHARE * before or stopped:
        tone = "bad"
    return Answer(text=f"{text}.{end}", tone=tone)


def weight(group: Group) -> Answer:
    """Tell the size of the exported file, or of the codes."""
    run = group.runs[0]
    if (file := run.shipped) is not None and file.bytes:
        text = f"{size(file.bytes)} as an ONNX file"
        if file.float_bytes:
            more = times(file.float_bytes, file.bytes)
            text += f"; the float network takes {size(file.float_bytes)}, {more} as much"
        return Answer(text=f"{text}.")
    known = [(layer.weights, layer.bits) for layer in run.layers if layer.bits is not None]
    if not known:
        return Answer(text="Not known: no file lists the layers.")
    codes, floats = sum(n * b / 8 for n, b in known), sum(4.0 * n for n, _ in known)
    text = f"The weights take {size(codes)} as codes, and {size(floats)} in float"
    text += f", {times(floats, codes)} as much. The exported file was not measured."
    return Answer(text=text)


def speed(group: Group) -> Answer:
    """Tell the time of an image in the exported file, if it was measured."""
    file = group.runs[0].shipped
    if file is None or not file.milliseconds:
        return Answer(text=NOT_TIMED)
    text = f"{file.milliseconds:.3g} ms an image"
    if file.float_milliseconds:
        ours, theirs = file.milliseconds, file.float_milliseconds
        word = f"{times(theirs, ours)} faster" if ours < theirs else f"{times(ours, theirs)} slower"
        text += f"; the float network takes {theirs:.3g} ms, so it is {word}"
    return Answer(text=f"{text} ({file.timed_on or 'ONNX Runtime, one thread'}).")


def oscillation(group: Group) -> Answer:
    """Say whether oscillation is a problem: how much there is, and what it was seen to cost."""
    run = group.runs[0]
    found = verdict.oscillation(run)
    if found is None:
        return Answer(text=f"Not measured. {_diagnose(run)}")
    probe = verdict.probed(run)
    if probe is not None and probe.tone == "bad":
        return Answer(text=f"Yes: it still costs. {found.text} {probe.text}", tone="bad")
    if run.too_few_steps:
        return Answer(text=f"Cannot be told yet. {found.text}")
    if found.tone == "good":
        return Answer(text=f"No. {found.text}", tone="good")
    if found.tone == "note":
        return Answer(text=f"Hardly. {found.text}", tone="good")
    if probe is not None:
        return Answer(text=f"There is much, and no cost was found. {found.text} {probe.text}")
    cost = "A probe measures what it costs."
    return Answer(text=f"Likely. {found.text} {cost}", tone="bad")


def next_step(group: Group) -> Answer:
    """Say what to do: go on, mend, or ship."""
    run = group.runs[0]
    folder = shlex.quote(str(run.folder))
    steps = []
    if not run.finished:
        resume = f" (quiesce train --resume {folder})" if run.scheme is not None else ""
        steps.append(f"Let the run finish{resume}.")
    found = verdict.advice(run)
    if found is not None and found.tone == "good":
        ship = f" Ship it: quiesce export {folder} -o model.onnx." if run.scheme else ""
        return Answer(text=f"{found.text}{ship}", tone="good")
    if found is not None:
        what = found.text.removeprefix("What to do: ")
        steps.append(what[:1].upper() + what[1:])
    elif run.finished:
        steps.append(_unadvised(run))
    return Answer(text=" ".join(steps), tone="note")


def _unadvised(run: Run) -> str:
    """Return what is left to do where no rule of the advice applies."""
    probe = verdict.probed(run)
    if run.oscillating is None and run.oscillating_depthwise is None:
        return _diagnose(run)
    if run.too_few_steps:
        return "Train for more steps, or with a larger tracker.momentum, to measure oscillation."
    if probe is not None and probe.tone == "bad":
        more = verdict.MORE_CURE[run.cure or "none"]
        return f"{more[:1].upper()}{more[1:]}, because oscillation still costs."
    return "Use the network without re-estimated batch norms: they lower top-1."


def _diagnose(run: Run) -> str:
    return f"Measure it: quiesce diagnose {shlex.quote(str(run.folder))}."


QUESTIONS: dict[str, Callable[[Group], Answer]] = {
    "What network?": network,
    "How many bits?": bits,
    "How good?": quality,
    "How big?": weight,
    "How fast?": speed,
    "Is oscillation a problem?": oscillation,
    "What to do?": next_step,
}
"""The questions, in the order of the page."""
