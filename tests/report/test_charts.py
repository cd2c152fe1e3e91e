"""Charts: there where a run has what they show, and true to it."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from quiesce.report.charts.ablation import ablation
from quiesce.report.charts.batchnorm import by_kind, during_training
from quiesce.report.charts.chart import shortened, written
from quiesce.report.charts.codes import codes, codes_by_layer
from quiesce.report.charts.cure import cure
from quiesce.report.charts.curves import curves
from quiesce.report.charts.layer_map import ROWS
from quiesce.report.charts.offsets import HIGHEST, offsets, offsets_by_layer
from quiesce.report.charts.over_time import low_bit_shares, over_time
from quiesce.report.charts.probe import other_codes
from quiesce.report.charts.training import training
from quiesce.report.charts.trajectories import WEIGHTS, weights_over_time
from quiesce.report.collect import collect
from quiesce.report.page import figure_json
from quiesce.report.reading.series import layers_over_time
from quiesce.report.run_data import Group
from quiesce.report.sections import quiet, sections
from support.made_runs import QUIET, Made, make_run, make_sweep


def group(*runs):
    return Group(label=runs[0].title, runs=runs)


def test_curves_have_a_line_for_each_run_in_the_color_of_its_group(made):
    one, other = made("one"), made("other", oscillating=0.001)
    chart = curves([group(one, one), group(other)], "oscillating", title="t", y="%", factor=100)
    assert chart is not None
    colors = [trace.line.color for trace in chart.figure.data]
    assert colors[0] == colors[1] != colors[2]
    assert [key.label for key in chart.keys] == ["one", "other"]
    assert chart.figure.data[0].y[-1] == pytest.approx(100 * one.curves["oscillating"].values[-1])


def test_charts_of_a_run_that_has_nothing_are_none(made):
    bare = replace(made(), layers=(), batchnorms=(), curves={}, over_time=None, trajectories=None)
    bare = replace(bare, probe=None, batchnorm_curves={}, batchnorm_losses={})
    groups = [group(bare)]
    assert training(groups) == cure(groups) == during_training(groups) == []
    assert offsets(groups) is codes(groups) is by_kind(groups) is None
    assert (
        over_time(bare, "", 1.0) is offsets_by_layer(bare, "") is codes_by_layer(bare, "") is None
    )
    assert weights_over_time(bare, "", 0) is other_codes(bare, "", 0) is None


def test_one_point_is_no_chart(made):
    run = made()
    curve = {name: replace(each, steps=each.steps[:1], values=each.values[:1])
             for name, each in run.curves.items()}  # fmt: skip
    few = replace(run, curves=curve, batchnorms=run.batchnorms[:1], batchnorm_curves={})
    assert run.over_time is not None
    assert run.trajectories is not None
    few = replace(
        few,
        batchnorm_losses={},
        over_time=replace(
            run.over_time,
            steps=run.over_time.steps[:1],
            oscillating=run.over_time.oscillating[:, :1],
        ),
        trajectories=replace(run.trajectories, steps=run.trajectories.steps[:1]),
    )
    groups = [group(few)]
    assert training(groups) == cure(groups) == during_training(groups) == []
    assert by_kind(groups) is over_time(few, "", 1.0) is weights_over_time(few, "", 0) is None


def test_one_setting_of_a_sweep_is_no_chart(tmp_path):
    subject = collect([make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01], seeds=3)])
    assert ablation(subject.groups, "cure.threshold.end") == []


def test_schedules_show_each_cure_on_an_axis_of_its_own(made):
    groups = [group(made("a", cure="freeze", frozen=0.3)), group(made("b", cure="dampen"))]
    titles = [chart.title for chart in cure(groups)]
    assert titles == ["Learning rate", "Freezing threshold", "Dampening strength", "Frozen weights"]


def test_the_heat_map_leaves_out_layers_of_more_bits(made):
    chart = over_time(made(), "run", top=0.2)
    assert chart is not None
    (heat,) = chart.figure.data
    assert heat.z.shape == (12, 40)
    assert "conv_stem" not in chart.figure.layout.yaxis.ticktext
    assert heat.zmax == 20


def test_the_heat_map_of_a_run_without_diagnosis_goes_by_the_bits_in_the_table(made):
    run = made(finished=False, remove=["diagnosis.json"])
    assert run.layers == ()
    (section,) = [each for each in sections(collect([run.folder])) if each.short == "Layers"]
    (chart,) = section.by_run
    (heat,) = chart.figure.data
    named = chart.figure.layout.yaxis.ticktext
    assert len(named) == 12
    assert not {"conv_stem", "classifier"} & set(named)
    assert heat.zmax < 20  # the classifier has 90 %


def test_a_table_of_an_earlier_version_has_no_bits_and_all_its_layers_are_shown(made):
    run = made(finished=False, remove=["diagnosis.json"])
    table = run.folder / "layers.csv"
    rows = [line.rpartition(",")[0] for line in table.read_text("utf-8").splitlines()]
    assert rows[0].endswith(",transition_rate")
    table.write_text("\n".join(rows) + "\n", "utf-8")
    again = layers_over_time(table)
    assert again is not None
    assert again.bits == {}
    shown, _ = low_bit_shares(replace(run, over_time=again)) or ([], None)
    assert shown == list(again.layers)


def test_the_heat_map_keeps_the_layers_that_oscillate_most(made):
    run = made(blocks=50)
    chart = over_time(run, "run", top=0.2)
    assert chart is not None
    assert run.over_time is not None
    kept = set(chart.figure.layout.yaxis.ticktext)
    assert len(kept) == ROWS
    peak = dict(zip(run.over_time.layers, run.over_time.oscillating.max(axis=1), strict=True))
    left_out = set(peak) - kept - {"conv_stem", "classifier"}
    assert max(peak[name] for name in left_out) <= min(peak[name] for name in kept)


def test_offsets_are_in_multiples_of_even_spacing(made):
    chart = offsets([group(made())])
    assert chart is not None
    (line,) = chart.figure.data
    assert np.mean(line.y[:-1]) == pytest.approx(1)
    assert line.y[0] > 1.5 > line.y[25]  # mass at the thresholds


def test_what_is_higher_than_the_chart_is_told_in_words(made):
    chart = offsets([group(made("frozen", cure="freeze", frozen=0.3, oscillating=0.0))])
    assert chart is not None
    (line,) = chart.figure.data
    assert line.y.max() > HIGHEST == chart.figure.layout.yaxis.range[1]
    assert chart.note.endswith(f"Beyond the chart, frozen goes up to {line.y.max():.1f}.")


def test_codes_sum_up_to_all_weights(made):
    run = made()
    chart, by_layer = codes([group(run)]), codes_by_layer(run, "run")
    assert chart is not None
    assert by_layer is not None
    assert sum(chart.figure.data[0].y) == pytest.approx(100)
    assert list(chart.figure.data[0].x) == list(range(-4, 4))
    assert by_layer.figure.data[0].z.shape == (12, 8)


def test_trajectories_draw_the_weights_that_oscillate_most(made):
    run = made()
    chart = weights_over_time(run, "run", 0)
    assert chart is not None
    assert run.trajectories is not None
    assert len(chart.figure.data) == 2 * WEIGHTS
    assert chart.figure.layout.annotations[0].text.startswith("weight 165,")  # the last of 16
    assert list(chart.figure.data[1].y) == list(run.trajectories.code[-300:, 15])
    assert len(chart.figure.layout.shapes) >= WEIGHTS  # a threshold in each
    assert chart.note.startswith("The 3 of 16 recorded weights that oscillate most, in the last")


def drawn_thresholds(run, position):
    """Thresholds that are drawn for weights that go this way."""
    seen = run.trajectories
    steps = len(seen.steps)
    there = np.tile(np.resize(position, steps)[:, None], len(seen.index))
    chart = weights_over_time(replace(run, trajectories=replace(seen, position=there)), "run", 0)
    return sorted({shape.y0 for shape in chart.figure.layout.shapes})


def test_thresholds_are_those_of_the_grid(made):
    run = made()
    assert (run.trajectories.quant_min, run.trajectories.quant_max) == (-4, 3)
    assert drawn_thresholds(run, [-0.6, 0.7]) == [-0.5, 0.5]
    assert drawn_thresholds(run, [-48.7, -45.2]) == []  # clipped: the code is -4 all the way
    assert drawn_thresholds(run, [2.2, 5.2]) == [2.5]
    assert drawn_thresholds(run, [-9.0, 9.0]) == [code + 0.5 for code in range(-4, 3)]


def test_weights_that_do_not_oscillate_are_said_not_to(made):
    run = made()
    still = replace(run.trajectories, frequency=0 * run.trajectories.frequency)
    chart = weights_over_time(replace(run, trajectories=still), "run", 0)
    assert chart is not None
    assert chart.note == (
        "None of the 16 recorded weights oscillates; 3 of them, in the last 300 recorded steps."
    )


def test_kl_has_a_dot_for_each_batch_norm(made):
    chart = by_kind([group(made())])
    assert chart is not None
    assert len(chart.figure.data[0].x) == 13
    assert list(chart.figure.layout.yaxis.ticktext) == ["depth-wise", "point-wise", "full"]


def test_what_statistics_cost_is_a_difference_of_losses(made):
    chart = during_training([group(made())])[-1]
    assert list(chart.figure.data[0].y) == pytest.approx([0.019] * 10, rel=1e-4)  # 0.047 - 0.028


def test_the_probe_has_a_row_for_each_way(made):
    chart = other_codes(made(), "run", 0)
    assert chart is not None
    assert [len(trace.x) for trace in chart.figure.data] == [1, 20, 1]


def test_an_ablation_has_means_and_spreads(tmp_path):
    subject = collect([make_sweep(tmp_path / "sweep", "cure.threshold.end", [0.01, 0.02])])
    accuracy, oscillation = ablation(subject.groups, "cure.threshold.end")
    shares = [[100 * (run.oscillating or 0) for run in each.runs] for each in subject.groups]
    points = oscillation.figure.data[0]
    assert list(points.x) == [0.01, 0.02]
    assert list(points.y) == pytest.approx([np.mean(each) for each in shares])
    assert list(points.error_y.array) == pytest.approx([np.std(shares[0], ddof=1), 0])
    assert list(accuracy.figure.data[0].y) == pytest.approx([97.8, 97.8])


def test_values_that_are_no_numbers_are_categories(tmp_path):
    subject = collect([make_sweep(tmp_path / "sweep", "cure.kind", ["freeze", "none"])])
    charts = ablation(subject.groups, "cure.kind")
    assert charts[0].figure.layout.xaxis.type == "category"
    assert list(charts[0].figure.data[0].x) == ["freeze", "none"]


def test_names_reach_plotly_as_text():
    assert written("<b>a&b</b>") == "&lt;b&gt;a&amp;b&lt;/b&gt;"
    assert shortened("x" * 40 + "<i>.conv_dw") == "…" + "x" * 12 + "&lt;i&gt;.conv_dw"
    assert len(shortened("x" * 40)) == 24


@pytest.mark.parametrize("kl", [0.0, 0.019, 7.0, float("inf")])
def test_kl_is_on_a_logarithmic_axis_always(kl, made):
    run = made()
    one = structs.replace(run.batchnorms[0], kl_mean=kl)
    chart = by_kind([group(replace(run, batchnorms=(one, one)))])
    assert chart is not None
    assert chart.figure.layout.xaxis.type == "log"
    assert min(chart.figure.data[0].x) > 0
    assert '"log"' in str(figure_json(chart))


def test_numbers_are_packed(made):
    chart = over_time(made(), "run", top=0.2)
    assert chart is not None
    packed = chart.figure.to_plotly_json()["data"][0]["z"]
    if isinstance(packed, dict):  # plotly 6 and later
        assert len(base64.b64decode(packed["bdata"])) == 12 * 40 * 4


def test_a_quiet_run_gets_sentences_for_charts(quiet_run):
    subject = collect([quiet_run])
    assert quiet(subject.runs[0])
    by_name = {section.name: section for section in sections(subject)}
    assert by_name["layers-over-time"].instead == "No low-bit weight oscillates."
    assert by_name["probe"].instead == "Nothing to probe. No low-bit weight oscillates."
    assert not by_name["layers-over-time"].by_run
    assert subject.runs[0].trajectories is not None
    assert by_name["trajectories"].instead == "No low-bit weight oscillates."
    assert not by_name["trajectories"].by_run
    titles = [chart.title for chart in by_name["training"].charts]
    assert titles == ["Training loss", "Test accuracy"]
    assert by_name["training"].lead.endswith("No low-bit weight oscillates.")
    drawn = [chart for section in by_name.values() for chart in section.charts + section.by_run]
    for trace in (trace for chart in drawn for trace in chart.figure.data):
        assert np.any(trace.z if trace.type == "heatmap" else trace.y)
    assert by_name["offsets"].charts  # latents lie somewhere all the same


def test_a_quiet_run_beside_another_is_named(quiet_run, tmp_path):
    subject = collect([quiet_run, make_run(tmp_path / "other", Made(name="other"))])
    by_name = {section.name: section for section in sections(subject)}
    for name in ("layers-over-time", "trajectories"):
        assert len(by_name[name].by_run) == 1
        assert by_name[name].lead.endswith(
            f"No low-bit weight oscillates in {subject.groups[0].label}."
        )
    assert len(by_name["training"].charts) == 4  # with both runs in each


def test_a_quiet_run_of_few_steps_is_not_said_to_be_at_rest(made):
    subject = collect([made(**QUIET, steps=200, remove=["probe.json"]).folder])
    by_name = {section.name: section for section in sections(subject)}
    for name in ("layers-over-time", "trajectories", "probe"):
        assert "Too few steps" in by_name[name].instead
        assert "No low-bit" not in by_name[name].instead
    assert "Too few steps" in by_name["training"].lead


def test_a_run_that_oscillated_on_the_way_is_not_quiet(made):
    run = made()
    assert not quiet(run)
    at_the_end = replace(run, oscillating=0.0, oscillating_depthwise=0.0)
    assert not quiet(at_the_end)
    assert not quiet(replace(at_the_end, over_time=None))  # metrics.csv tells it too
    assert quiet(replace(at_the_end, over_time=None, curves={}))
