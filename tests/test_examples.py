"""The programs and notebooks of examples/ run, and show what they say.

Those for other toolkits are tested in stacks/test_examples.py.
"""

import ast
import json
import re

import pytest

from support.examples import EXAMPLES, run_example, run_notebook

PROGRAMS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MOST_LINES = 60


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(name)`: the variables of a program at its end."""
    return lambda name: run_example(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_is_short_and_says_how_to_run_it(program) -> None:
    text = program.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    said = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    assert f"`python examples/{program.name}`" in said


def test_the_tables_list_every_file_once() -> None:
    tables = (EXAMPLES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+\.\w+)\]\(\1\)", tables, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in [*PROGRAMS, *NOTEBOOKS])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs(notebook) -> None:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_every_program_is_run_by_a_test() -> None:
    ours = re.findall(r'run\("(\w+)"\)', (EXAMPLES.parent / "tests/test_examples.py").read_text())
    theirs = {"attach_brevitas", "attach_torchao"}
    assert {*ours, *theirs} == {program.stem for program in PROGRAMS}


@pytest.mark.slow
def test_own_loop(run) -> None:
    given = run("own_loop")
    assert given["trained"] > 80  # percent; chance is 10
    assert given["tracker"].steps == 2 * len(given["train"])


@pytest.mark.slow
def test_freezing(run) -> None:
    lsq, freezing = run("freezing")["results"].values()
    assert min(*lsq[:2], *freezing[:2]) > 50  # top-1; chance is 10
    assert lsq[3] == 0 < freezing[3]  # frozen
    assert 0 < freezing[2] < lsq[2]  # oscillating


@pytest.mark.slow
def test_dampening(run) -> None:
    results = run("dampening")["results"]
    without, strongest = results[0.0], results[1e-2]
    assert strongest[1] < without[1]  # oscillating
    assert strongest[2] < without[2]  # near a threshold


@pytest.mark.slow
def test_own_cure(run) -> None:
    without, slowed = run("own_cure")["results"].values()
    assert slowed[1] < without[1]  # flips per step
    assert max(without[0], slowed[0]) < 0.3  # loss; that of zeros is 0.8


@pytest.mark.slow
def test_estimators(run) -> None:
    results = run("estimators")["results"]
    assert results.keys() == {"STE", "EWGS", "DSQ", "Hysteresis", "QEMA", "StochasticRounding"}
    assert max(loss for loss, _ in results.values()) < 0.4
    assert results["Hysteresis"][1] < results["STE"][1]  # oscillating


@pytest.mark.slow
def test_groups_int4(run) -> None:
    given = run("groups_int4")
    tensor, channel, groups = given["errors"].values()
    assert 0 < groups < channel < tensor < 0.5
    assert given["right"] > 800  # of 1,000; chance is 100
    assert given["path"].stat().st_size == given["exported"].size < 150e3


@pytest.mark.slow
def test_average(run) -> None:
    given = run("average")
    assert given["losses"]["average"] < given["losses"]["last step"]
    assert given["frozen"] > 0 == given["lost"]
    assert given["different"] > 0


def test_resume(run) -> None:
    given = run("resume")
    assert given["equal"]
    assert given["control"].step == given["again"][2].step == len(given["batches"])
    assert given["again"][2].tracker.summary().total_oscillations > 0


@pytest.mark.slow
def test_timm_network(run, capsys) -> None:
    given = run("timm_network")
    assert given["right"] > 500  # of 1,000; chance is 100
    assert "oscillating %" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lightning_trainer(run) -> None:
    given = run("lightning_trainer")
    assert given["loss"] < 0.3
    assert given["callback"].tracker.steps == given["steps"] == given["trainer"].global_step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_face_trainer(run) -> None:
    given = run("hugging_face_trainer")
    assert given["right"] > 0.8  # chance is 0.5
    assert given["callback"].tracker.steps == given["STEPS"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_accelerate_loop(run) -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # of other tests in this process
    GradientState._reset_state()
    given = run("accelerate_loop")
    assert given["batches"] == 2 * given["control"].step == 512


@pytest.mark.slow
def test_detection(run) -> None:
    given = run("detection")
    assert given["control"].step == len(given["losses"]) == 6
    assert given["losses"][-1] < given["losses"][0]


@pytest.mark.slow
def test_export_onnx(run) -> None:
    given = run("export_onnx")
    assert given["verified"].passed
    assert given["path"].stat().st_size == given["exported"].size < 168e3
    assert given["right"] > 700  # of 1,000; chance is 100


@pytest.mark.slow
def test_export_gguf(run, capsys) -> None:
    pytest.importorskip("gguf")
    made = run("export_gguf")["made"]
    assert made.path.stat().st_size == made.size
    assert made.codes_changed == made.scales_changed == 0
    assert "11 of Q4_0, 4 of Q8_0" in capsys.readouterr().out  # first three and last in 8 bits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_audit(run) -> None:
    given = run("audit")
    assert given["ours"].changed == 0
    assert any(layer.scales_changed for layer in given["theirs"].layers)


def test_record_and_report(run) -> None:
    given = run("record_and_report")
    files = {path.name for path in given["folder"].iterdir()}
    assert files == {"diagnosis.json", "layers.csv", "metrics.csv"}
    assert (given["folder"].parent / "report.html").stat().st_size > 100e3


@pytest.mark.slow
def test_sweep(run) -> None:
    given = run("sweep")
    assert given["failed"] == 0
    assert len(given["rows"]) == 1 + 2 * 6  # a header; recipes times measures


@pytest.mark.slow
def test_tune(run) -> None:
    pytest.importorskip("optuna")
    given = run("tune")
    assert len(given["study"].trials) == 3
    assert 0.005 <= given["study"].best_params["cure.threshold.end"] <= 0.02
    assert (given["folder"] / "best.yaml").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_see_the_oscillation(tmp_path, monkeypatch) -> None:
    printed = run_notebook("see_the_oscillation", tmp_path, monkeypatch)
    assert printed.count("after 480 steps") == 3
