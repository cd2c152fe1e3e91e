"""`quiesce.record`: a loop of one's own leaves a folder that `diagnose` and `report` read."""

import copy
import csv
import json
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import quiesce as qs
from quiesce.cli import main
from quiesce.diagnosis import diagnose_layers
from quiesce.errors import CheckpointError, RecipeError

STEPS = 25


def make_loop():
    """A control, its model, and a function that makes one step and returns the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    images, labels = torch.randn(32, 8), torch.randint(0, 4, (32,))
    scheme = qs.Scheme(weight_bits=3, act_bits=None, first_last_bits=8)
    qs.prepare(model, scheme, example_input=images[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = qs.quantized_weights(model)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, momentum=0.2))

    def step():
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return control, model, step


@pytest.fixture
def loop():
    """One loop for a test."""
    return make_loop()


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def recorded(loop, tmp_path):
    """The folder of such a loop, and its control."""
    control, _, step = loop
    with qs.record(control, tmp_path / "runs" / "mine", every=10) as recording:
        for _ in range(STEPS):
            recording.log(loss=step())
        recording.log(top1_percent=62.5)
    return tmp_path / "runs" / "mine", control


def test_the_tables_have_a_row_each_time_and_one_at_the_end(recorded):
    folder, control = recorded
    layers = rows(folder / "layers.csv")
    assert [(int(row["step"]), row["layer"]) for row in layers] == [
        (step, name) for step in (10, 20, 25) for name in ("0", "2", "4")
    ]
    last = {seen.name: seen for seen in control.tracker.report()}
    for row in layers[-3:]:
        assert float(row["oscillating"]) == last[row["layer"]].oscillating
    metrics = rows(folder / "metrics.csv")
    assert [int(row["step"]) for row in metrics] == [9, 19, 24]
    assert [row["top1_percent"] for row in metrics] == ["", "", "62.5"]
    assert float(metrics[-1]["loss"]) < float(metrics[0]["loss"])
    assert float(metrics[-1]["oscillating"]) == last["2"].oscillating  # of the low-bit layer


def test_the_report_gets_the_name_and_the_float_accuracy(loop, tmp_path):
    control, _, step = loop
    told = {"network": "my_net", "float_top1_percent": 65.0}
    with qs.record(control, tmp_path / "run", **told) as recording:
        step()
        recording.log(top1_percent=62.5)
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "my_net" in page
    assert "2.5 points less" in page


def test_flips_are_those_since_the_row_before(loop, tmp_path):
    control, _, step = loop
    codes, flips = [weight.codes() for weight in control.weights], [0, 0, 0]
    with qs.record(control, tmp_path / "run", every=5):
        for number in range(1, 16):
            step()
            now = [weight.codes() for weight in control.weights]
            if number > 10:
                pairs = zip(flips, now, codes, strict=True)
                flips = [count + int((new != old).sum()) for count, new, old in pairs]
            codes = now
    last = rows(tmp_path / "run" / "layers.csv")[-3:]
    assert [round(5 * float(row["flips_per_step"])) for row in last] == flips
    assert sum(flips) > 0


def test_a_loop_that_goes_on_continues_its_recording(tmp_path):
    """A loop that is killed after step 8 and goes on from its checkpoint of step 6."""

    def recorded(folder, steps, load=None):
        control, model, step = make_loop()
        if load is not None:
            model.load_state_dict(load[0])
            control.load_state_dict(load[1])
        recording, saved = qs.record(control, folder, every=3), None
        for _ in range(steps):
            recording.log(loss=step())
            if control.step == 6:
                saved = copy.deepcopy((model.state_dict(), control.state_dict()))
        return recording, saved

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recorded(whole, 14)[0].close()
    _, saved = recorded(parts, 8)
    with (parts / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("8,0.5")  # cut off
    recorded(parts, 8, saved)[0].close()
    for name in ("layers.csv", "metrics.csv", "diagnosis.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_only_a_recording_of_a_loaded_control_is_continued(recorded, tmp_path):
    folder, control = recorded
    fresh, _, _ = make_loop()
    with pytest.raises(RecipeError, match=r"load_state_dict"):
        qs.record(fresh, folder)
    (folder / "recipe.yaml").write_text("name: mine")
    with pytest.raises(RecipeError, match="no recording"):
        qs.record(control, folder)
    (folder / "recipe.yaml").unlink()
    table = folder / "layers.csv"
    table.write_text(table.read_text("utf-8").replace(",bits", ""), "utf-8")
    with pytest.raises(CheckpointError, match=r"layers\.csv"):
        qs.record(control, folder)


def test_low_bits_are_those_of_most_layers_that_do_not_have_the_most(tmp_path):
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcd"})
    scheme = qs.Scheme(
        weight_bits=3, act_bits=None, first_last_bits=8, overrides={"b": {"weight_bits": 2}}
    )
    model.forward = lambda x: [model[n](model["b"](model["a"](x))) for n in "cd"]
    qs.prepare(model, scheme, example_input=torch.ones(1, 4))
    weights = qs.quantized_weights(model)
    assert [weight.grid.bits for weight in weights] == [8, 2, 8, 8]  # two heads
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights))
    qs.record(control, tmp_path / "run").close()
    assert json.loads((tmp_path / "run" / "diagnosis.json").read_text("utf-8"))["low_bits"] == 2


def test_recording_changes_nothing(loop, tmp_path):
    control, model, step = loop
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    cures = list(control.cures)
    recording = qs.record(control, tmp_path / "run", every=1)
    recording.after_step(0)
    assert control.penalty().item() == 0
    recording.close()
    recording.close()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert control.cures == cures
    before = (tmp_path / "run" / "layers.csv").read_bytes()
    step()
    assert (tmp_path / "run" / "layers.csv").read_bytes() == before


def test_the_diagnosis_is_that_of_the_tracker(recorded):
    folder, control = recorded
    tree = json.loads((folder / "diagnosis.json").read_text("utf-8"))
    assert (tree["step"], tree["finished"], tree["momentum"]) == (STEPS, True, 0.2)
    assert tree["low_bits"] == 3
    assert [each["name"] for each in tree["layers"]] == ["0", "2", "4"]
    for told, seen in zip(tree["layers"], diagnose_layers(control.tracker), strict=True):
        assert told["oscillating"] == seen.oscillating
        assert told["codes"]["counts"] == list(seen.codes.counts)


def test_diagnose_reads_the_folder(recorded, capsys):
    folder, control = recorded
    assert main(["diagnose", str(folder)]) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith("2 "))
    oscillating = diagnose_layers(control.tracker)[1].oscillating
    assert row[1:5] == ["linear", "256", "3", f"{100 * oscillating:.2f}"]
    assert main(["diagnose", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == STEPS
    assert main(["diagnose", str(folder), "--data.workers=1"]) == 2
    assert "no flag applies" in capsys.readouterr().err


def test_report_reads_the_folder(recorded, tmp_path):
    folder, control = recorded
    page = tmp_path / "report.html"
    assert main(["report", str(folder), "-o", str(page)]) == 0
    html = re.sub(r"<script.*?</script>", " ", page.read_text("utf-8"), flags=re.DOTALL)
    said = " ".join(re.sub(r"<[^>]+>", " ", html).split(" "))
    assert "W3" in said
    assert "cut off" not in said
    assert "Training loss" in said
    assert "62.5" in said
    oscillating = 100 * control.tracker.report()[1].oscillating
    assert oscillating > 1
    assert f"{oscillating:.1f}\u00a0% of low-bit weights oscillate" in said


def test_a_loop_that_fails_is_not_finished(loop, tmp_path, capsys):
    control, _, step = loop

    def stopped():
        with qs.record(control, tmp_path / "run", every=2):
            for _ in range(5):
                step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    assert "is not finished" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    assert "cut off at step 5" in (tmp_path / "page.html").read_text("utf-8")


def test_a_loop_that_was_killed_is_reported_as_far_as_it_went(loop, tmp_path):
    control, _, step = loop
    qs.record(control, tmp_path / "run", every=2)
    for _ in range(5):
        step()
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    assert "cut off at step 4" in (tmp_path / "page.html").read_text("utf-8")


def test_what_can_not_be_recorded_is_refused(loop, tmp_path):
    control, _, _ = loop
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="exists already"):
        qs.record(control, tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be created"):
        qs.record(control, tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="at least 1"):
        qs.record(control, tmp_path / "run", every=0)
    assert control.cures == []


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 3), ("momentum", "x"), ("step", None), ("accuracy", [])]
)
def test_a_damaged_diagnosis_is_one_line(field, value, recorded, capsys):
    folder, _ = recorded
    path = folder / "diagnosis.json"
    tree = json.loads(path.read_text("utf-8")) | {field: value}
    path.write_text(json.dumps(tree), "utf-8")
    assert main(["diagnose", str(folder)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert err.count("\n") == 1
