"""The questions with which the page opens, and what each run answers."""

from dataclasses import replace

import pytest
from msgspec import structs

from quiesce.report.answers import QUESTIONS
from quiesce.report.numbers import size
from quiesce.report.run_data import Accuracy, Group
from quiesce.run_folder.contents import KeptScheme, ShippedFile
from support.made_runs import QUIET

NETWORK, BITS, GOOD, BIG, FAST, PROBLEM, DO = QUESTIONS


def answered(question, *runs):
    return QUESTIONS[question](Group(label="made", runs=runs))


def test_the_network_is_told_with_its_size_and_data(made):
    run = made()
    text = answered(NETWORK, run).text
    for part in ("small_net", "14 quantized layers", "made_up"):
        assert part in text
    assert f"{sum(layer.weights for layer in run.layers):,}" in text


def test_the_bits_are_told(made):
    run = made()
    assert (
        answered(BITS, run).text
        == "3 for weights, 4 for activations; 8 in the first and last layers."
    )
    scheme = KeptScheme(weight_bits=4, act_bits=None, first_last_bits=4)
    text = answered(BITS, replace(run, scheme=scheme, layers=())).text
    assert "4 for weights" in text
    assert "floats" in text
    recorded = answered(BITS, replace(run, scheme=None)).text
    assert "3 for weights" in recorded
    assert "8" in recorded


@pytest.mark.parametrize(
    ("final", "tone", "parts"),
    [
        (97.7, "good", ("as much as", "97.7")),
        (98.0, "good", ("0.3 points more",)),
        (97.0, "good", ("0.7 points less",)),
        (95.0, "note", ("2.7 points less",)),
        (36.0, "bad", ("61.7 points less",)),
    ],
)
def test_how_good_is_against_float(final, tone, parts, made):
    run = replace(made(), top1=Accuracy(running=final))
    assert run.top1_float == 97.7
    answer = answered(GOOD, run)
    assert answer.tone == tone
    assert all(part in answer.text for part in parts)


def test_how_good_is_a_mean_over_seeds(made):
    runs = [replace(made(str(i)), top1=Accuracy(running=top1)) for i, top1 in enumerate((97, 98))]
    text = answered(GOOD, *runs).text
    assert "97.5 ± 0.7 %" in text
    assert "2 seeds" in text


def test_an_unfinished_run_says_so_and_how_to_go_on(made):
    run = made(finished=False)
    answer = answered(GOOD, run)
    assert "step 330" in answer.text
    assert f"quiesce train --resume {run.folder}" in answered(DO, run).text


def test_without_a_measurement_size_and_speed_say_so(made):
    run = made()
    assert run.shipped is None
    assert "Not measured" in answered(FAST, run).text
    assert "--time" in answered(FAST, run).text
    bits = sum(layer.weights * layer.bits for layer in run.layers)
    assert size(bits / 8) in answered(BIG, run).text
    assert "not measured" in answered(BIG, run).text


def test_size_and_speed_are_those_of_the_exported_file(made):
    shipped = ShippedFile(
        bytes=92_000,
        float_bytes=269_000,
        milliseconds=0.5,
        float_milliseconds=1.0,
        timed_on="made up",
    )
    run = replace(made(), shipped=shipped)
    assert "92.0 kB" in answered(BIG, run).text
    assert "2.9 times" in answered(BIG, run).text
    assert "2.0 times faster" in answered(FAST, run).text
    assert "made up" in answered(FAST, run).text
    slow = replace(run, shipped=structs.replace(shipped, milliseconds=2.0))
    assert "2.0 times slower" in answered(FAST, slow).text


@pytest.mark.parametrize(
    ("value", "text"),
    [(320, "320 bytes"), (9_130, "9.13 kB"), (92_000, "92.0 kB"), (3e8, "300 MB")],
)
def test_sizes_have_three_digits(value, text):
    assert size(value) == text


def test_oscillation_is_a_problem_where_it_costs(made):
    answer = answered(PROBLEM, made())
    assert answer.text.startswith("Yes")
    assert answer.tone == "bad"
    likely = answered(PROBLEM, made("unprobed", remove=["probe.json"]))
    assert likely.text.startswith("Likely")
    assert "probe" in likely.text
    probe = made("probed").probe
    same = structs.replace(probe, learned=None, sampled=None)
    unharmed = answered(PROBLEM, replace(made("same"), probe=same))
    assert "no cost was found" in unharmed.text
    assert unharmed.tone == "note"


def test_oscillation_is_no_problem_where_there_is_none(made):
    quiet = made(**QUIET, remove=["probe.json"])
    assert answered(PROBLEM, quiet).text.startswith("No.")
    assert answered(PROBLEM, quiet).tone == "good"
    few = replace(quiet, oscillating=0.004, oscillating_depthwise=None)
    assert answered(PROBLEM, few).text.startswith("Hardly")
    early = made("early", **QUIET, steps=290, remove=["probe.json"])
    assert answered(PROBLEM, early).text.startswith("Cannot be told yet")
    unknown = replace(quiet, oscillating=None, oscillating_depthwise=None)
    for question in (PROBLEM, DO):
        assert "quiesce diagnose" in answered(question, unknown).text


def test_what_to_do(made):
    assert answered(DO, made("plain")).text == "Train with freezing (cure.kind: freeze)."
    quiet = made(**QUIET, remove=["probe.json"])
    assert "quiesce export" in answered(DO, quiet).text
    assert answered(DO, quiet).tone == "good"
    harmed = replace(quiet, top1=Accuracy(running=97.7, reestimated=96.9))
    assert "re-estimated" in answered(DO, harmed).text
    costly = replace(quiet, probe=made("b").probe)
    assert "freezing" in answered(DO, costly).text
