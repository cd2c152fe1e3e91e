"""A data set, a network and a metric of the user, from training to every later command.

The module and the commands are the blocks of docs/how-to/own-data.md.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from quiesce.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "own-data.md").read_text("utf-8")
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line)[1:] for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()
]
RUN = "runs/shapes"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with shapes.py and a finished run, which the page's first command trained."""
    home = tmp_path_factory.mktemp("home")
    (home / "shapes.py").write_text(MODULE, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "path", list(sys.path))
        train, *_ = COMMANDS
        assert train[0] == "train"
        assert main([*train, "--recording.layers=4", "--trainer.accelerator=cpu"]) == 0
        assert main(next(command for command in COMMANDS if command[0] == "export")) == 0
    yield home
    sys.modules.pop("shapes", None)


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    """The tests run where the module is, and have not imported it."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("shapes", None)


def test_the_example_has_thirty_lines():
    assert len(MODULE.splitlines()) <= 30


def test_the_metric_is_in_the_summary(home):
    metric = json.loads((home / RUN / "summary.json").read_text("utf-8"))["metric"]
    scores = metric["scores"]
    assert metric["name"] == "shapes:score"
    assert metric["final"] == scores["reestimated"]
    assert set(scores) == {"float", "rounded", "trained", "reestimated"}
    assert all(0 < value < 1 for value in scores.values())


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_the_later_commands_of_the_page(command, home, capsys):
    assert main([*command, "--force"] if command[0] == "export" else command) == 0
    out = capsys.readouterr().out
    final = json.loads((home / RUN / "summary.json").read_text("utf-8"))["metric"]["final"]
    if command[0] == "evaluate":
        assert f"metric {final:.4g}" in out
    if command[0] == "compare":
        assert f"{final:.4f}" in out
    if command[0] == "report":
        assert f"{final:.4f}" in (home / "shapes.html").read_text("utf-8")


@pytest.mark.parametrize(
    "command",
    [
        *(command for command in COMMANDS[1:] if "--trust" in command),
        ["train", f"{RUN}/recipe.yaml", "--run", "runs/again"],
        ["diagnose", f"{RUN}/checkpoints/last.ckpt", "--recipe", f"{RUN}/recipe.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_a_run_folder_runs_no_code_without_trust(command, capsys):
    argv = [word for word in command if word != "--trust"]
    if command[0] == "export":
        argv[-1] = "other.onnx"  # shapes.onnx is there already
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "--trust" in told
    assert "--data.name shapes:make_data" in told
    assert "shapes" not in sys.modules


def test_each_function_must_be_named_again(capsys):
    again = ["--data.name", "shapes:make_data", "--model.name=shapes:Net"]
    assert main(["evaluate", RUN, *again]) == 2
    assert "metric is shapes:score" in capsys.readouterr().err
    assert "shapes" not in sys.modules
    assert main(["evaluate", RUN, *again, "--metric=shapes:score"]) == 0


def test_resuming_needs_trust_and_then_ends_as_the_run_did(home, capsys, tmp_path):
    folder = shutil.copytree(home / RUN, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    (folder / "summary.json").unlink()
    assert main(["train", "--resume", str(folder)]) == 2
    assert "shapes" not in sys.modules
    assert main(["train", "--resume", str(folder), "--trust"]) == 0
    again = json.loads((folder / "summary.json").read_text("utf-8"))
    assert again["metric"] == summary["metric"]
    assert again["top1_percent"] == summary["top1_percent"]


@pytest.mark.slow
def test_a_sweep_trains_and_continues_such_runs(home, capsys, tmp_path):
    flags = [each for each in COMMANDS[0][1:] if each not in ("--run", RUN)]
    sweep = ["sweep", *flags, "--trainer.accelerator=cpu", "--recording.layers=4"]
    sweep += ["--set", "cure.max_bits=3,4", f"--output={tmp_path / 'sweep'}"]
    assert main(sweep) == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    folders = sorted(path.parent for path in tmp_path.glob("sweep/*/summary.json"))
    metrics = [
        json.loads((folder / "summary.json").read_text("utf-8"))["metric"] for folder in folders
    ]
    assert [metric["name"] for metric in metrics] == ["shapes:score"] * 2
    (folders[0] / "summary.json").unlink()
    assert main(sweep) == 0
    assert "resuming from" in (tmp_path / "sweep/logs" / f"{folders[0].name}.log").read_text()
    again = json.loads((folders[0] / "summary.json").read_text("utf-8"))["metric"]
    assert again == metrics[0]


def test_a_sweep_of_the_recipe_of_a_run_folder_needs_trust(tmp_path, capsys):
    sweep = ["sweep", f"{RUN}/recipe.yaml", "--set", "cure.max_bits=3,4", "--dry-run"]
    assert main(sweep) == 2
    assert "--trust" in capsys.readouterr().err
    assert "shapes" not in sys.modules
    assert main([*sweep, "--trust"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_recipe_of_the_user_may_name_code(home, capsys, tmp_path):
    tree = yaml.safe_load((home / RUN / "recipe.yaml").read_text("utf-8"))
    tree |= {"run": str(tmp_path / "run"), "metric": "shapes:make_data"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    assert main(["train", str(tmp_path / "mine.yaml")]) == 2
    assert "metric: shapes:make_data fails" in capsys.readouterr().err  # it was called
    assert "shapes" in sys.modules


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--data.name=shapes:make", "did you mean 'make_data'"),
        ("--data.name=shaped:make_data", "no module 'shaped'"),
        ("--data.name=shapes", "must be one of mnist5k"),
        ("--model.name=shapes:score", "takes 'logits'"),
        ("--model.name=shapes:make_data", "takes 'config'"),
        ("--model.weights=pretrained", "pretrained needs a timm network"),
        ("--metric=top1", "module:name"),
        ("--metric=shapes:f1", "no function or class 'f1'"),
    ],
)
def test_a_wrong_name_is_one_line(flag, told, capsys, tmp_path):
    train = [each for each in COMMANDS[0] if each != RUN]
    train.remove("--run")
    assert main([*train, f"--run={tmp_path / 'run'}", flag]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_says_how_to_read_pictures_where_the_data_say_it(home, capsys, tmp_path):
    from PIL import Image

    source = MODULE.replace("input_shape=(1, 16, 16))", "input_shape=(1, 16, 16), **HOW)")
    source += "\nHOW = {'mean': (0.5,), 'std': (0.25,)}\n"
    (tmp_path / "pictured.py").write_text(source, "utf-8")
    Image.new("L", (20, 24), 200).save(tmp_path / "one.png")
    sys.path.insert(0, str(tmp_path))
    named = ["--data.name=pictured:make_data", "--model.name=shapes:Net", "--metric=shapes:score"]
    file = tmp_path / "pictured.onnx"
    assert main(["export", RUN, "-o", str(file), *named]) == 0
    capsys.readouterr()
    assert main(["predict", str(file), str(tmp_path / "one.png")]) == 0
    assert "across" in capsys.readouterr().out
    bare = tmp_path / "bare.onnx"
    assert main(["export", RUN, "-o", str(bare), "--trust"]) == 0
    assert main(["predict", str(bare), str(tmp_path / "one.png")]) == 2
    assert main(["export", RUN, "-o", str(bare), "--trust", "--input=uint8", "--force"]) == 2
