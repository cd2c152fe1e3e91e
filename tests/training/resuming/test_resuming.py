"""Exact resume: a run that is killed, again and again, ends on the bits of one that was not."""

import itertools
import json
import shutil

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins import MixedPrecision

from quiesce.cli import main
from quiesce.errors import CheckpointError, RecipeError
from quiesce.recipes.reading import read_recipe
from quiesce.run_folder.checkpoint_file import SoundCheckpoints, read_checkpoint, write_checkpoint
from quiesce.run_folder.folder import locked
from quiesce.training import stages, trainer
from quiesce.training.run import resume, run
from support.killed_runs import FLAGS, Killer, assert_same_run
from support.messages import telling, tells

WRITES = 4
"""Checkpoints in one of whose writes a run is killed."""

SHORT = {
    "float_stage.epochs": 1,
    "calibration.batches": 9,  # more than an epoch has
    "trainer.max_epochs": 2,
    "checkpoint.every": 1,
}
KINDS = {
    "epochs": {"trainer.deterministic": "false"},
    "max_steps": {
        "trainer.max_epochs": 3,
        "trainer.max_steps": 8,
        "trainer.accumulate_grad_batches": 2,
        "trainer.deterministic": "false",
    },
}


@pytest.mark.parametrize(
    ("most", "flags"),
    [
        (1, ["--float_stage.epochs=1", "--trainer.max_epochs=2"]),
        pytest.param(6, [], marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_ends_on_the_bits_of_a_whole_one(most, flags, tmp_path):
    killer = Killer(seed=6, flags=flags)
    seconds = killer.whole(tmp_path / "whole")
    turns, kills, killed = itertools.count(), 0, tmp_path / "killed0"
    while kills < most:
        by_clock = next(turns) % 2 == 1
        died = (
            killer.kill_within(killed, seconds / 2)
            if by_clock
            else killer.kill_in_write(killed, WRITES)
        )
        kills += died
        if not died:  # it was finished before: the next one is of another run
            assert_same_run(tmp_path / "whole", killed)
            killed = tmp_path / f"killed{kills}"
    killer.whole(killed)
    assert_same_run(tmp_path / "whole", killed)


def train_and_copy(folder, changes):
    """A finished run, and what its folder held when each checkpoint had been written."""
    values = {**FLAGS, **SHORT, **changes}
    flags = [f"--{name}={value}" for name, value in values.items()]
    save, copies = SoundCheckpoints.save_checkpoint, []

    def save_and_copy(self, *args, **options):
        save(self, *args, **options)
        copies.append(folder / f"after{len(copies)}")
        shutil.copytree(folder / "run", copies[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoundCheckpoints, "save_checkpoint", save_and_copy)
        run(read_recipe("mnist_freeze_w3a3", [*flags, f"--run={folder / 'run'}"]))
    return folder / "run", copies


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Such a run, of two epochs."""
    return train_and_copy(tmp_path_factory.mktemp("whole"), KINDS["epochs"])


@pytest.fixture
def cut_off(whole, tmp_path):
    """A run that was cut off in the middle of its last epoch."""
    return shutil.copytree(whole[1][-2], tmp_path / "cut_off")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "every"),
    [("epochs", 6), *((kind, 2) for kind in KINDS)],
)
def test_every_checkpoint_leads_to_the_same_bits(kind, every, whole, tmp_path):
    finished, copies = whole if kind == "epochs" else train_and_copy(tmp_path, KINDS[kind])
    for copy in copies[1::every]:  # of the float stage, at the start and in the middle of epochs
        resumed = shutil.copytree(copy, tmp_path / "resumed" / copy.name)
        resume(resumed)
        assert_same_run(finished, resumed)


@pytest.mark.slow
def test_a_precision_scaler_goes_on_where_it_was(tmp_path, monkeypatch):
    # an accelerator has one with trainer.precision=16-mixed; on a CPU it takes a plugin
    def trainer_with_a_scaler(**options):
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        options["plugins"].append(MixedPrecision("16-mixed", "cpu", scaler))
        return Trainer(**{**options, "precision": None})

    monkeypatch.setattr(trainer, "Trainer", trainer_with_a_scaler)
    longer = {"trainer.max_epochs": 4, "recording.trajectory_begin": 0}
    finished, copies = train_and_copy(tmp_path, {**KINDS["epochs"], **longer})
    quantized = [copy for copy in copies if (copy / "checkpoints" / "last.ckpt").is_file()]
    states = [scaler_of(copy, "checkpoints") for copy in quantized]
    assert len({state["scale"] for state in states}) > 1  # steps were skipped
    assert len({state["_growth_tracker"] for state in states}) == 2
    for copy in quantized[3::7]:
        resumed = shutil.copytree(copy, tmp_path / "resumed" / copy.name)
        resume(resumed)
        assert_same_run(finished, resumed)
        assert scaler_of(resumed, "checkpoints") == scaler_of(finished, "checkpoints")


def scaler_of(folder, stage):
    """State of the precision scaler in the last checkpoint of a run."""
    return read_checkpoint(folder / stage / "last.ckpt")["MixedPrecision"]


def test_a_recipe_begins_or_goes_on_as_its_folder_tells(whole, cut_off, tmp_path, capsys):
    recipe, folder = str(whole[0] / "recipe.yaml"), f"--run={cut_off}"
    for said in (f"resuming from {cut_off}", ""):  # the second time it is finished
        assert main(["train", recipe, "--resume", folder]) == 0
        out, err = capsys.readouterr()
        assert said in err
        assert "rounded, untrained" in out
    assert_same_run(whole[0], cut_off)
    anew = tmp_path / "anew"
    assert main(["train", recipe, f"--run={anew}", "--resume"]) == 0
    assert_same_run(whole[0], anew)


def test_a_run_does_not_go_on_by_another_recipe(whole, cut_off, capsys):
    recipe = str(whole[0] / "recipe.yaml")
    flags = ["--seed=7", "--cure.threshold.end=0.001", f"--run={cut_off}"]
    assert main(["train", recipe, "--resume", *flags]) == 2
    err = capsys.readouterr().err
    assert tells(err, cut_off, "seed, cure.threshold.end", f"quiesce train --resume {cut_off}")


def test_training_that_is_over_is_not_done_again(whole, tmp_path, monkeypatch):
    finished, copies = whole
    over = shutil.copytree(copies[-1], tmp_path / "over")
    monkeypatch.setattr(stages, "fit", None)
    resume(over)
    assert_same_run(finished, over)


def test_it_is_said_from_where_a_run_goes_on(whole, cut_off, capsys):
    assert main(["train", "--resume", str(cut_off)]) == 0
    out, err = capsys.readouterr()
    path = cut_off / "checkpoints" / "last.ckpt"
    assert tells(err, path, "quantized network")
    assert "rounded, untrained" in out
    assert_same_run(whole[0], cut_off)


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(whole, cut_off, capsys):
    damage(path := cut_off / "checkpoints" / "last.ckpt")
    assert main(["train", f"--resume={cut_off}"]) == 0
    told = capsys.readouterr().err
    assert f"{path} is damaged (checksum of " in told
    assert f"using {path.with_name('previous.ckpt')} instead, step " in told
    assert_same_run(whole[0], cut_off)


def test_without_a_sound_checkpoint_nothing_is_done(cut_off):
    for name in ("last.ckpt", "previous.ckpt"):
        damage(cut_off / "checkpoints" / name)
    with pytest.raises(CheckpointError, match=r"previous.ckpt is damaged .* remove .* to train"):
        resume(cut_off)


def test_a_run_without_a_checkpoint_begins_at_the_beginning(whole, cut_off):
    shutil.rmtree(cut_off / "checkpoints")
    resume(cut_off)
    assert_same_run(whole[0], cut_off)


def test_rows_that_are_missing_are_told_of(cut_off):
    (cut_off / "layers.csv").write_text("")
    with pytest.raises(CheckpointError, match=r"layers\.csv .* 0 bytes .* \d+"):
        resume(cut_off)


def test_another_number_of_threads_is_told_of(cut_off, capsys):
    path = cut_off / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    content["quiesce"]["threads"] = 99
    write_checkpoint(content, path)
    assert main(["train", "--resume", str(cut_off)]) == 0
    assert f"threads: {torch.get_num_threads()} now, 99 when" in capsys.readouterr().err


def test_a_second_process_is_refused(cut_off, capsys):
    with locked(cut_off):
        assert main(["train", "--resume", str(cut_off)]) == 2
    assert f"another process is training in {cut_off}" in capsys.readouterr().err


def test_a_folder_with_links_is_not_written_into(cut_off, tmp_path):
    (cut_off / "diagnosis.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"diagnosis\.json is a symbolic link"):
        resume(cut_off)
    assert not (tmp_path / "elsewhere").exists()


def test_what_can_not_be_resumed_is_refused(whole, tmp_path, capsys):
    with pytest.raises(RecipeError, match=telling(whole[0], "finished")):
        resume(whole[0])
    with pytest.raises(RecipeError, match=telling(tmp_path / "nowhere", "no such folder")):
        resume(tmp_path / "nowhere")
    assert main(["train", "--resume", str(whole[0]), "--seed=3"]) == 2
    assert "--resume" in capsys.readouterr().err


def of_tracker(content):
    return next(each for each in content["callbacks"].values() if "tracker" in each)


def of_first_weight(content):
    return content["optimizer_states"][0]["state"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("loops"),
        lambda c: c.update(optimizer_states=[]),
        lambda c: of_first_weight(c).update(momentum_buffer=torch.zeros(3)),
        lambda c: c["callbacks"].clear(),
        lambda c: c["quiesce"].pop("over"),
        lambda c: of_tracker(c).pop("stepped"),
        lambda c: of_tracker(c)["tracker"].update(steps=2**50),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(change, cut_off, capsys):
    path = cut_off / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    change(content)
    write_checkpoint(content, path)
    assert main(["train", "--resume", str(cut_off)]) == 2
    err = capsys.readouterr().err
    line = err[err.index("quiesce: ") :]
    assert line.startswith(f"quiesce: {path} ")
    assert line.count("\n") == 1


def test_times_of_all_processes_are_added_up(whole, cut_off):
    path = cut_off / "checkpoints" / "last.ckpt"
    before = torch.load(path, weights_only=True)["quiesce"]["job"]["seconds"]
    resume(cut_off)
    seconds = json.loads((cut_off / "summary.json").read_text())["seconds"]
    assert seconds["float_stage"] == before["float_stage"]
    assert seconds["training"] > before["training"]
    assert seconds["all"] > before["all"]


def damage(path):
    """Change one byte in the middle; hard links keep the old content."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
