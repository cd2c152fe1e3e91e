"""Turn the numbers of a run into sentences; docs/report.md lists the rules.

Each rule is a function that maps a run to a finding, or to None if the run lacks the data. The
limits are constants in this module, so each sentence can be traced to a number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quiesce.comparison.same_data import differing_field
from quiesce.oscillation.steps_needed import steps_needed
from quiesce.report.numbers import cell, count, mean, nats, percent
from quiesce.report.run_data import DEPTHWISE, Accuracy, Group, Run

RARE = 0.01
"""Share of oscillating weights below which the verdict says "few"."""

OFF_NATS = 0.02
"""KL above which statistics count as wrong: equivalent to a mean off by 0.2 standard deviations."""

GAIN_POINTS = 0.5
"""Smallest change of top-1, in percentage points, that the verdict reports."""

GAIN_OF_LOSS = 0.05
"""Smallest relative change of a loss that the verdict reports."""

CROWDED = 2.0
"""Density near thresholds, relative to even spacing, from which weights count as crowded."""

LOST_POINTS = 1.0
"""Smallest loss of top-1 against the float network, in percentage points, that is reported."""

HEALTHY_SHARE = 0.9
"""Minimum top-1 of a healthy network, as a share of the float network's top-1."""

TOO_FEW_STEPS = "Too few steps to tell whether weights oscillate"

MOSTLY_FROZEN = 0.9
"""Frozen share above which few weights can still learn."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence of the verdict."""

    rule: str
    """Name of the rule in docs/report.md."""
    tone: Literal["good", "note", "bad"]
    """How the page marks the finding."""
    text: str
    """The sentence, as plain text."""


def verdict(run: Run) -> list[Finding]:
    """Return the findings for one run; the advice comes last."""
    rules = (
        cut_off,
        accuracy,
        oscillation,
        crowding,
        target,
        frozen,
        locked,
        statistics_off,
        reestimation,
        probed,
        advice,
    )
    return [finding for rule in rules if (finding := rule(run)) is not None]


def cut_off(run: Run) -> Finding | None:
    """Report a run without summary.json as incomplete."""
    if run.finished:
        return None
    text = (
        f"The run stopped at step {run.steps:,} or is still running; the page shows what it has "
        "written so far."
    )
    if not run.steps:
        text = "The run stopped before it wrote its first step, or has just started."
    return Finding(rule="cut off", tone="bad", text=text)


def accuracy(run: Run) -> Finding | None:
    """Compare top-1 with that of the float network."""
    final, first = final_top1(run), run.top1_float
    if final is None or first is None or first - final < LOST_POINTS:
        return None
    text = f"Top-1 is {final:.1f} %, {first - final:.1f} points below the float network"
    if _healthy(run):
        return Finding(rule="accuracy", tone="note", text=f"{text}.")
    text += f": {percent(final / first)} of its {first:.1f} % remain."
    return Finding(rule="accuracy", tone="bad", text=text)


def oscillation(run: Run) -> Finding | None:
    """Report how many low-bit weights oscillate, and which layers have most of them."""
    worst = max(_shares(run), default=None)
    if worst is None:
        return None
    if worst == 0:
        return _none_oscillates(run)
    text = f"{percent(run.oscillating or 0)} of low-bit weights oscillate"
    if run.oscillating_depthwise is not None:
        text = f"{percent(run.oscillating_depthwise)} of depth-wise weights oscillate"
        if run.oscillating is not None:
            text += f" ({percent(run.oscillating)} of all low-bit weights)"
    layers = run.low_bit_layers
    if run.oscillating_depthwise is not None:
        layers = [layer for layer in layers if layer.kind == DEPTHWISE]
    if layers:
        most = max(layers, key=lambda layer: layer.oscillating)
        text += f", most in {most.name}: {percent(most.oscillating)}"
    if run.too_few_steps:
        text += f"; {count(run.steps, 'step')} are too few to tell whether it stays so"
    return Finding(rule="oscillation", tone="bad" if worst >= RARE else "note", text=f"{text}.")


def _none_oscillates(run: Run) -> Finding:
    """Report that no low-bit weight oscillates, or that the run is too short to decide."""
    if run.too_few_steps and run.momentum is not None:
        text = (
            f"{TOO_FEW_STEPS}: {count(run.steps, 'step')} of the {steps_needed(run.momentum):,} "
            f"or more that a tracker with momentum {run.momentum:g} needs."
        )
        return Finding(rule="oscillation", tone="note", text=text)
    others = [layer for layer in run.other_layers if layer.oscillating]
    if others:
        most = max(others, key=lambda layer: layer.oscillating)
        text = (
            f"No low-bit weight oscillates. Of the {count(len(others), 'layer')} with more bits "
            f"that oscillate, {most.name} does most: {percent(most.oscillating)} at {most.bits} "
            "bits, where a flip is small."
        )
        return Finding(rule="oscillation", tone="good", text=text)
    which = "" if run.layers else "low-bit "
    text = f"No {which}weight oscillates: none has a frequency above {run.cut:g}."
    return Finding(rule="oscillation", tone="good", text=text)


def crowding(run: Run) -> Finding | None:
    """Report whether latent weights accumulate at thresholds, relative to even spacing."""
    known = [layer for layer in run.low_bit_layers if layer.near_threshold is not None]
    if not known:
        return None
    weights = sum(layer.weights for layer in known)
    near = sum((layer.near_threshold or 0) * layer.weights for layer in known) / weights
    even = 2 * run.near
    if near < CROWDED * even:
        return None
    text = (
        f"Latent weights gather at the thresholds: {percent(near)} lie within {run.near:g} codes "
        f"of one, and even spacing would put {percent(even)} there."
    )
    return Finding(rule="crowding", tone="note", text=text)


def target(run: Run) -> Finding | None:
    """Report whether the cure has reached its target for the oscillating share."""
    did = run.target
    if did is None or did.share_end is None:
        return None
    text = f"The target of {percent(did.target)} oscillating weights "
    text += f"{'is reached' if did.reached else 'is missed'}: {percent(did.share_end)} oscillate"
    if did.share_begin is not None:
        text += f", and {percent(did.share_begin)} did before the {did.steered} was set"
    return Finding(rule="target", tone="good" if did.reached else "bad", text=f"{text}.")


def frozen(run: Run) -> Finding | None:
    """Report how many weights a cure has frozen."""
    if not run.frozen:
        return None
    text = f"{percent(run.frozen)} of low-bit weights are frozen"
    if run.frozen < MOSTLY_FROZEN:
        return Finding(rule="frozen", tone="note", text=f"{text}.")
    return Finding(rule="frozen", tone="bad", text=f"{text}: few weights can still learn.")


def locked(run: Run) -> Finding | None:
    """Report the layers that training left alone, because their weights require no gradient."""
    layers = [layer for layer in run.layers if layer.locked]
    if not layers:
        return None
    share = sum(layer.weights for layer in layers) / sum(layer.weights for layer in run.layers)
    text = (
        f"{count(len(layers), 'layer')} with {percent(share)} of all weights "
        f"{'is' if len(layers) == 1 else 'are'} locked (requires_grad=False): codes and scales "
        "stay as they are."
    )
    return Finding(rule="locked", tone="note", text=text)


def statistics_off(run: Run) -> Finding | None:
    """Report the largest difference between running and population batch-norm statistics."""
    if not run.batchnorms:
        return None
    worst = max(run.batchnorms, key=lambda norm: norm.kl_mean)
    if worst.kl_mean < OFF_NATS:
        text = f"Batch-norm statistics are right: they are off by at most {nats(worst.kl_mean)}."
        return Finding(rule="statistics", tone="good", text=text)
    text = f"Batch-norm statistics of {worst.name} are off by {nats(worst.kl_mean)}"
    off = sum(norm.kl_mean >= OFF_NATS for norm in run.batchnorms)
    if off > 1:
        text += f", and those of {count(off - 1, 'other layer')} by {OFF_NATS:g} nats or more"
    if _left_reestimated(run):
        text += "; the saved network has re-estimated ones"
        return Finding(rule="statistics", tone="note", text=f"{text}.")
    return Finding(rule="statistics", tone="bad", text=f"{text}.")


def reestimation(run: Run) -> Finding | None:
    """Report the effect of re-estimation on top-1, or on the training loss if top-1 is the same."""
    top1, loss = run.top1, run.batchnorm_loss
    gain = _change(top1)
    if gain is not None and abs(gain) >= GAIN_POINTS:
        word = "raises" if gain > 0 else "lowers"
        text = (
            f"Re-estimating batch norm {word} top-1 from {top1.running:.1f} "
            f"to {top1.reestimated:.1f} %."
        )
        return Finding(rule="re-estimation", tone="note", text=text)
    if loss.running and (lost := _change(loss)) is not None:
        share = lost / loss.running
        if abs(share) >= GAIN_OF_LOSS:
            word = "lowers" if share < 0 else "raises"
            text = (
                f"Re-estimating batch norm {word} the training loss from {loss.running:.3f} "
                f"to {loss.reestimated:.3f}"
            )
            text += " and does not change top-1." if gain is not None else "."
            return Finding(rule="re-estimation", tone="note", text=text)
    if gain is None:
        return None
    text = f"Re-estimating batch norm changes top-1 by less than {GAIN_POINTS:g} points."
    return Finding(rule="re-estimation", tone="good", text=text)


def probed(run: Run) -> Finding | None:
    """Report whether other codes of the oscillating weights lower the training loss."""
    probe = run.probe
    if probe is None or probe.before is None:
        return None
    before = probe.before.loss
    drawn = [loss for loss, _ in probe.sampled.each] if probe.sampled else []
    ways = {"drawing them at random": min(drawn, default=before)}
    if probe.learned is not None:
        ways["learning them"] = probe.learned.loss
    way, best = min(ways.items(), key=lambda pair: pair[1])
    weights = count(probe.weights, "oscillating weight")
    if not before or (before - best) / before < GAIN_OF_LOSS:
        text = (
            f"No better codes were found for the {weights}: the training loss stays {before:.3f}."
        )
        return Finding(rule="probe", tone="good", text=text)
    text = (
        f"Oscillation still costs: other codes for the {weights}, found by {way}, lower the "
        f"training loss from {before:.3f} to {best:.3f}."
    )
    return Finding(rule="probe", tone="bad", text=text)


def advice(run: Run) -> Finding | None:
    """Recommend what to do, based on the limits of the other rules."""
    steps = []
    off = any(norm.kl_mean >= OFF_NATS for norm in run.batchnorms)
    harmful = (_change(run.top1) or 0.0) <= -GAIN_POINTS
    if off and not harmful and not _left_reestimated(run):
        steps.append("re-estimate batch norm (the end of quiesce train does)")
    if max(_shares(run), default=0.0) >= RARE:
        steps.append("lower cure.target" if run.target else MORE_CURE[run.cure or "none"])
    if (run.frozen or 0) >= MOSTLY_FROZEN:
        steps.append("raise cure.threshold, so that fewer weights freeze")
    if not _healthy(run):
        steps.append("find what else costs accuracy: epochs, the learning rate, the bits")
    if steps:
        return Finding(rule="advice", tone="note", text=f"What to do: {', then '.join(steps)}.")
    cost = probed(run)
    costs = harmful or (cost is not None and cost.tone == "bad")
    if not run.finished or not _shares(run) or costs or run.too_few_steps:
        return None
    return Finding(rule="advice", tone="good", text="Nothing needs to be changed.")


MORE_CURE = {
    "none": "train with freezing (cure.kind: freeze)",
    "freeze": "lower the end of cure.threshold, or begin it earlier",
    "dampen": "raise the end of cure.strength, or freeze instead",
    "trs": "lower cure.transitions, or freeze instead",
    "osci_reset": "lower cure.ratio or cure.period, or freeze instead",
    "cga": "begin it earlier (cure.begin), or freeze instead",
    "q_ramping": "lower cure.alpha, raise cure.beta, or freeze instead",
}


def comparison(groups: Sequence[Group]) -> list[Finding]:
    """Return the effect of each cure, against the first groups without a cure, or the first group.

    Means are over seeds. A group with fewer than two has no standard deviation, and the sentence
    says so. Groups with different test images are not compared; the sentence gives the reason.
    """
    bare = [group for group in groups if all(run.cure == "none" for run in group.runs)]
    base = (bare or list(groups))[0]
    return [
        finding
        for group in groups
        if group is not base and (finding := _against(group, base)) is not None
    ]


def _against(group: Group, base: Group) -> Finding | None:
    one, other = base.runs[0].data, group.runs[0].data
    if one is not None and other is not None and (field := differing_field(one, other)):
        text = (
            f"{group.label} is not compared with {base.label}: their data differ, "
            f"data.{field} is {other[field]} and {one[field]}."
        )
        return Finding(rule="comparison", tone="note", text=text)
    now, before = (mean(run.oscillating for run in each.runs) for each in (group, base))
    if now is None or before is None:
        return None
    verb = "falls" if now < before else "rises" if now > before else "stays"
    text = f"{group.label} against {base.label}: the oscillating share {verb}"
    text += f" from {percent(before)} to {percent(now)}" if verb != "stays" else f" {percent(now)}"
    ends = [mean(final_top1(run) for run in each.runs) for each in (base, group)]
    if ends[0] is not None and ends[1] is not None:
        first, last = (f"{end:.1f}" for end in ends)
        text += f"; top-1 {f'goes from {first} to' if first != last else 'stays at'} {last} %"
    counts = sorted({len(group.runs), len(base.runs)})
    seeds = " and ".join(map(str, counts))
    text += f" (means of {seeds} seeds)" if counts[0] > 1 else " (one seed: spread unknown)"
    tone = "good" if verb == "falls" else "note"
    return Finding(rule="comparison", tone=tone, text=f"{text}.")


def ranking(groups: Sequence[Group]) -> list[Finding]:
    """Return the best setting of a sweep by accuracy, and the best by oscillation."""
    found = []
    for rule, measure, order, factor, digits in (
        ("Highest top-1", final_top1, max, 1, 1),
        ("Least oscillation", lambda run: run.oscillating, min, 100, 2),
    ):
        known = [(mean(map(measure, group.runs)), group) for group in groups]
        known = [(value, group) for value, group in known if value is not None]
        if not known:
            continue
        _, best = order(known, key=lambda pair: pair[0])
        value = cell([measure(run) for run in best.runs], digits, factor)
        text = f"{rule}: {value} %, at {best.label} (n = {len(best.runs)})."
        found.append(Finding(rule="ranking", tone="note", text=text))
    return found


def final_top1(run: Run) -> float | None:
    """Return top-1 of the final network, with re-estimated statistics if the run has them."""
    return run.top1.running if run.top1.reestimated is None else run.top1.reestimated


def _healthy(run: Run) -> bool:
    """Return whether the network keeps most of the float accuracy, or the data are missing."""
    final, first = final_top1(run), run.top1_float
    return final is None or first is None or final >= HEALTHY_SHARE * first


def _left_reestimated(run: Run) -> bool:
    """Return whether the network in the folder has re-estimated statistics."""
    return run.finished and run.top1.reestimated is not None


def _shares(run: Run) -> list[float]:
    return [each for each in (run.oscillating, run.oscillating_depthwise) if each is not None]


def _change(pair: Accuracy) -> float | None:
    if pair.running is None or pair.reestimated is None:
        return None
    return pair.reestimated - pair.running
