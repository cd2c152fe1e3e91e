"""Each rule of the verdict: when it speaks, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from quiesce.comparison.same_data import data_of
from quiesce.errors import RecipeError
from quiesce.report import tables
from quiesce.report import verdict as rules
from quiesce.report.numbers import nats
from quiesce.report.reading.run import page_run
from quiesce.report.run_data import Accuracy, Group
from quiesce.run_folder.contents import DiagnosedNorm, KeptData, Learned, Sampled
from support.made_runs import QUIET, Made, make_run
from support.messages import tells


def text_of(finding):
    return None if finding is None else finding.text


def test_the_sentences_of_the_issue_with_oscillation(made):
    texts = [finding.text for finding in rules.verdict(made())]
    assert texts == [
        "7.3 % of depth-wise weights oscillate (3.5 % of all low-bit weights), most in "
        "blocks.2.conv_dw: 10.7 %.",
        "Latent weights gather at the thresholds: 4.1 % lie within 0.01 codes of one, and even "
        "spacing would put 2.0 % there.",
        "Batch-norm statistics of blocks.2.conv_dw.bn are off by 0.41 nats, and those of 5 other "
        "layers by 0.02 nats or more; the saved network has re-estimated ones.",
        "Re-estimating batch norm raises top-1 from 97.2 to 97.8 %.",
        "Oscillation still costs: other codes for the 120 oscillating weights, found by learning "
        "them, lower the training loss from 0.057 to 0.041.",
        "What to do: train with freezing (cure.kind: freeze).",
    ]


def test_without_oscillation_there_is_nothing_to_mend(made):
    run = made(**QUIET, remove=["probe.json"])
    assert text_of(rules.oscillation(run)) == (
        "No weight oscillates: none has a frequency above 0.005."
    )
    assert rules.crowding(run) is None
    assert text_of(rules.statistics_off(run)) == (
        "Batch-norm statistics are right: they are off by at most 0.001 nats."
    )
    assert text_of(rules.advice(run)) == "Nothing needs to be changed."
    assert "bad" not in {finding.tone for finding in rules.verdict(run)}


def test_locked_layers_are_named_as_such(made):
    run = made()
    assert rules.locked(run) is None
    layers = [structs.replace(layer, locked=float(layer.bits == 8)) for layer in run.layers]
    run = replace(run, layers=tuple(layers))
    finding = rules.locked(run)
    assert finding is not None
    share = sum(x.weights for x in layers if x.locked) / sum(x.weights for x in layers)
    for part in ("2 layers", f"{100 * share:.1f} %", "requires_grad"):
        assert part in finding.text
    assert finding in rules.verdict(run)
    table = tables.layers(run)
    assert table is not None
    assert {row.name: row.remark for row in table.rows if row.remark} == {
        "conv_stem": "locked",
        "classifier": "locked",
    }


def test_too_few_steps_are_no_verdict(made):
    early = made(**QUIET, steps=290, remove=["probe.json"])
    assert early.momentum == 0.01
    assert early.too_few_steps
    finding = rules.oscillation(early)
    assert finding is not None
    assert finding.tone == "note"
    assert "290 steps of the 300" in finding.text
    assert rules.advice(early) is None
    assert not made("late", **QUIET, steps=300).too_few_steps
    assert "290 steps are too few" in (text_of(rules.oscillation(made("b", steps=290))) or "")


def test_the_momentum_is_that_of_the_summary_the_diagnosis_or_the_recipe(made):
    assert made("a", remove=["diagnosis.json"]).momentum == 0.01
    assert made("b", remove=["diagnosis.json"], finished=False).momentum is None  # no file has it


def test_layers_of_more_bits_are_told_of_where_no_low_bit_weight_oscillates(made):
    run = made(**QUIET)
    layers = tuple(
        structs.replace(layer, oscillating=0.25) if layer.name == "classifier" else layer
        for layer in run.layers
    )
    finding = rules.oscillation(replace(run, layers=layers))
    assert finding is not None
    assert finding.tone == "good"
    for part in ("No low-bit weight", "classifier", "25.0 %", "8 bits"):
        assert part in finding.text
    assert "low-bit" in (text_of(rules.oscillation(replace(run, layers=()))) or "")


@pytest.mark.parametrize(
    ("top1", "tone", "healthy"),
    [(97.0, None, True), (93.0, "note", True), (36.1, "bad", False), (None, None, True)],
)
def test_a_network_that_lost_its_accuracy_is_not_healthy(top1, tone, healthy, made):
    run = replace(made(**QUIET, remove=["probe.json"]), top1=Accuracy(running=top1))
    finding = rules.accuracy(run)
    assert (finding and finding.tone) == tone
    said = text_of(rules.advice(run)) or ""
    assert said.startswith("Nothing needs to be changed" if healthy else "What to do")
    if not healthy:
        assert finding is not None
        assert "36.9 % of its 97.7 %" in finding.text  # the issue's case


def test_cut_off(made):
    assert rules.cut_off(made()) is None
    run = replace(made("b"), finished=False, steps=812)
    assert "step 812" in (text_of(rules.cut_off(run)) or "")
    assert "before it wrote its first step" in (text_of(rules.cut_off(replace(run, steps=0))) or "")


@pytest.mark.parametrize(("share", "tone"), [(0.0, "good"), (0.0099, "note"), (0.01, "bad")])
def test_how_much_oscillation_is_bad(share, tone, made):
    run = replace(made(), oscillating=share, oscillating_depthwise=None)
    finding = rules.oscillation(run)
    assert finding is not None
    assert finding.tone == tone


def test_the_worst_layer_is_of_the_kind_that_the_sentence_begins_with(made):
    run = made()
    layers = tuple(
        structs.replace(layer, oscillating=0.9) if layer.kind == "point-wise" else layer
        for layer in run.layers
    )
    mixed = replace(run, layers=layers)
    assert "most in blocks.2.conv_dw: 10.7 %." in (text_of(rules.oscillation(mixed)) or "")
    alone = replace(mixed, oscillating_depthwise=None)
    assert "most in blocks.0.conv_pw: 90.0 %." in (text_of(rules.oscillation(alone)) or "")


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.0, "1.00"), (0.414, "0.41"), (12.345, "12.35"), (0.0123, "0.01"), (0.00123, "0.0012")],
)
def test_a_kl_has_two_decimals_or_digits_that_count(value, written):
    assert nats(value) == f"{written} nats"


def test_of_a_run_that_tells_no_shares_nothing_is_said(made):
    run = replace(made(), oscillating=None, oscillating_depthwise=None)
    assert rules.oscillation(run) is None


def test_crowding_is_twice_even_spacing(made):
    run = made()

    def near(share):
        layers = tuple(structs.replace(layer, near_threshold=share) for layer in run.layers)
        return rules.crowding(replace(run, layers=layers))

    assert near(0.0399) is None  # even spacing puts 0.02 within 0.01 of a threshold
    assert "6.0 %" in (text_of(near(0.06)) or "")


def test_frozen(made):
    run = made()
    assert rules.frozen(run) is None
    assert text_of(rules.frozen(replace(run, frozen=0.327))) == (
        "32.7 % of low-bit weights are frozen."
    )
    most = rules.frozen(replace(run, frozen=0.95))
    assert most is not None
    assert most.tone == "bad"


def test_statistics_are_off_from_a_fifth_of_a_standard_deviation(made):
    run = made(finished=False)
    shifted = 0.2**2 / 2  # KL of two Gaussians of one variance, a fifth of its root apart
    norm = DiagnosedNorm(name="bn", kind="full", kl_mean=shifted, kl_max=shifted)
    off = rules.statistics_off(replace(run, batchnorms=(norm,)))
    assert text_of(off) == "Batch-norm statistics of bn are off by 0.02 nats."
    right = structs.replace(norm, kl_mean=0.9 * shifted)
    finding = rules.statistics_off(replace(run, batchnorms=(right,)))
    assert finding is not None
    assert finding.tone == "good"
    assert rules.statistics_off(replace(run, batchnorms=())) is None


@pytest.mark.parametrize(
    ("top1", "loss", "said"),
    [
        ((65.0, 69.5), (None, None), "raises top-1 from 65.0 to 69.5 %."),
        ((69.5, 65.0), (None, None), "lowers top-1 from 69.5 to 65.0 %."),
        ((97.0, 97.4), (0.047, 0.028), "from 0.047 to 0.028 and does not change top-1."),
        ((None, None), (0.047, 0.028), "lowers the training loss from 0.047 to 0.028."),
        ((97.0, 97.4), (0.0470, 0.0465), "changes top-1 by less than 0.5 points."),
        ((97.0, None), (None, None), None),
    ],
)
def test_re_estimation(top1, loss, said, made):
    pairs = {
        "top1": Accuracy(running=top1[0], reestimated=top1[1]),
        "batchnorm_loss": Accuracy(running=loss[0], reestimated=loss[1]),
    }
    text = text_of(rules.reestimation(replace(made(), **pairs)))
    assert text is said is None or (text or "").endswith(said)


def test_a_probe_that_finds_nothing_better(made):
    run = made()
    assert run.probe is not None
    probe = structs.replace(
        run.probe,
        sampled=Sampled(each=((0.06, 97.0),)),
        learned=Learned(loss=0.056, top1_percent=97.0),
    )
    text = text_of(rules.probed(replace(run, probe=probe))) or ""
    assert text.startswith("No better codes were found for the 120 oscillating weights")
    drawn = structs.replace(probe, sampled=Sampled(each=((0.04, 97.0),)))
    assert "drawing them at random" in (text_of(rules.probed(replace(run, probe=drawn))) or "")
    assert rules.probed(replace(run, probe=None)) is None


@pytest.mark.parametrize(
    ("cure", "said"),
    [
        ("none", "train with freezing"),
        (None, "train with freezing"),
        ("freeze", "lower the end of cure.threshold"),
        ("dampen", "raise the end of cure.strength"),
    ],
)
def test_advice_knows_the_cure(cure, said, made):
    run = replace(made(), cure=cure, batchnorms=())
    assert (text_of(rules.advice(run)) or "").startswith(f"What to do: {said}")


def test_re_estimation_is_advised_to_runs_that_were_cut_off_alone(made):
    run = made(finished=False)
    advised = "What to do: re-estimate batch norm (the end of quiesce train does), then train"
    assert (text_of(rules.advice(run)) or "").startswith(advised)
    off = rules.statistics_off(run)
    assert off is not None
    assert off.tone == "bad"
    mended = rules.statistics_off(made("finished"))
    assert mended is not None
    assert mended.tone == "note"
    assert mended.text.endswith("; the saved network has re-estimated ones.")
    assert "re-estimate" not in (text_of(rules.advice(made("other"))) or "")


def test_re_estimation_that_does_harm_is_not_advised(made):
    harmed = Accuracy(running=97.0, reestimated=92.0)
    run = replace(made(finished=False), top1=harmed)
    assert "lowers top-1" in (text_of(rules.reestimation(run)) or "")
    assert text_of(rules.advice(run)) == "What to do: train with freezing (cure.kind: freeze)."
    rest = replace(made("b", **QUIET, remove=["probe.json"]), top1=harmed)
    assert rules.advice(rest) is None  # nor is there nothing to mend


def test_advice_when_all_is_frozen(made):
    run = replace(made(**QUIET), frozen=0.95)
    assert "raise cure.threshold" in (text_of(rules.advice(run)) or "")


def group(label, *runs):
    return Group(label=label, runs=runs)


def test_comparison_is_against_the_runs_without_a_cure(made):
    bare, cured = made(), made("b", cure="freeze", oscillating=0.001)
    found = rules.comparison([group("freezing", cured), group("LSQ", bare)])
    assert [finding.text for finding in found] == [
        "freezing against LSQ: the oscillating share falls from 3.5 % to 0.04 %; top-1 stays at "
        "97.8 % (one seed: spread unknown)."
    ]
    (several,) = rules.comparison([group("LSQ", bare, bare), group("freezing", cured, cured)])
    assert several.text.endswith("(means of 2 seeds).")


def test_runs_of_different_data_are_not_compared(made):
    def of(name, size, folder="~/digits", **differs):
        run = made(name, **differs)
        data = data_of(KeptData(name="mnist5k", image_size=size, folder=folder))
        assert run.data is not None
        return group(name, replace(run, data=data))

    bare = of("bare", 28)
    (told,) = rules.comparison([bare, of("large", 56, cure="freeze")])
    assert told.text == (
        "large is not compared with bare: their data differ, data.image_size is 56 and 28."
    )
    assert told.tone == "note"
    spelled = of("same", 28, str(Path.home() / "x" / ".." / "digits"), cure="freeze")
    (told,) = rules.comparison([bare, spelled])
    assert told.text.startswith("same against bare: the oscillating share")
    unknown = group("unknown", replace(made("unknown", cure="freeze"), data=None))
    (told,) = rules.comparison([bare, unknown])
    assert told.text.startswith("unknown against bare: ")


def test_ranking_of_a_sweep(made):
    less = replace(made("a", oscillating=0.001), top1=Accuracy(running=96.0))
    more = replace(made("b"), top1=Accuracy(running=97.0, reestimated=98.0))
    found = rules.ranking([group("less", less), group("more", more, more)])
    assert [finding.text for finding in found] == [
        "Highest top-1: 98.0 ± 0.0 %, at more (n = 2).",
        "Least oscillation: 0.04 %, at less (n = 1).",
    ]


STEERED = {
    "cure": "Freezing",
    "target": 0.005,
    "share_begin": 0.06,
    "share_end": 0.0048,
    "frozen": 0.1,
    "reached": True,
    "steered": "threshold",
}


def test_a_target_is_reached_or_missed(tmp_path):
    folder = make_run(tmp_path / "run", Made())
    summary = json.loads((folder / "summary.json").read_text())
    missed = STEERED | {"reached": False, "share_end": 0.02}
    for did, tone, parts in [
        (STEERED, "good", ("target of 0.50 %", "is reached", "0.48 %", "6.0 %", "threshold")),
        (missed, "bad", ("target of 0.50 %", "is missed", "2.0 %")),
    ]:
        (folder / "summary.json").write_text(json.dumps(summary | {"cures": [did]}))
        run = page_run(folder, "run")
        [finding] = [found for found in rules.verdict(run) if found.rule == "target"]
        assert finding.tone == tone
        assert tells(finding.text, *parts)
        assert tells(text_of(rules.advice(run)), "lower cure.target")
    (folder / "summary.json").write_text(json.dumps(summary | {"cures": [{"target": "x"}]}))
    with pytest.raises(RecipeError, match=r"summary.json is damaged: .*target"):
        page_run(folder, "run")


def test_without_a_target_nothing_is_said_of_one(made):
    assert rules.target(made()) is None
