"""The run folder: whole or not at all."""

import errno

import pytest

from quiesce.errors import DiskFullError, QuiesceError, RecipeError
from quiesce.run_folder.folder import (
    CHECKPOINT,
    FLOAT_CHECKPOINT,
    explained,
    locked,
    run_folder,
    write_json,
)


def test_a_folder_is_made_with_its_parents_and_stays(tmp_path):
    with run_folder(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert list(folder.iterdir()) == []


def fail(folder, error, *, written):
    """A run that writes a file, then fails."""
    with run_folder(folder):
        (folder / written).parent.mkdir(parents=True, exist_ok=True)
        (folder / written).touch()
        raise error


def test_failing_before_a_checkpoint_takes_away_what_was_made(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "kept" / "a" / "b", ZeroDivisionError, written="file")
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


def test_failing_leaves_a_run_that_began_beside_it_alone(tmp_path):
    def fail_beside(runs):
        with run_folder(runs / "fails"):
            fail_not(runs / "beside")
            raise KeyboardInterrupt

    def fail_not(folder):
        with run_folder(folder):
            write_json(folder / "summary.json", {})

    with pytest.raises(KeyboardInterrupt):
        fail_beside(tmp_path / "made" / "runs")
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")]
    assert left == ["made/runs/beside/summary.json"]
    assert not (tmp_path / "made" / "runs" / "fails").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [(QuiesceError("bad"), "bad; the last good"), (KeyboardInterrupt(), "stopped; the last good")],
)
def test_failing_after_a_checkpoint_keeps_it_and_says_so(error, message, tmp_path):
    with pytest.raises(type(error), match=message):
        fail(tmp_path / "a", error, written=CHECKPOINT)
    assert (tmp_path / "a" / CHECKPOINT).exists()


@pytest.mark.parametrize("stage", [CHECKPOINT, FLOAT_CHECKPOINT])
def test_the_checkpoint_before_the_last_is_kept_alone(stage, tmp_path):
    """So a process leaves it that dies in a write, where a file cannot have a second name."""
    previous = (tmp_path / "a" / stage).with_name("previous.ckpt")
    with pytest.raises(QuiesceError, match=rf"bad; the last good checkpoint is {previous}"):
        fail(tmp_path / "a", QuiesceError("bad"), written=previous.relative_to(tmp_path / "a"))
    assert previous.exists()


def test_a_foreign_error_is_not_touched(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        fail(tmp_path / "a", ZeroDivisionError("as it was"), written=CHECKPOINT)
    assert str(caught.value) == "as it was"


def test_an_existing_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="exists already"), run_folder(tmp_path):
        pass


def test_who_does_not_own_the_folder_makes_and_removes_nothing(tmp_path):
    with run_folder(tmp_path / "a", owner=False) as folder:
        assert not folder.exists()
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "a", owner=False):
        raise ZeroDivisionError
    assert (tmp_path / "a").exists()


def test_json_ends_with_a_line_end(tmp_path):
    write_json(tmp_path / "a.json", {"version": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "version": 1\n}\n'


def test_a_folder_made_meanwhile_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "theirs").touch()
    monkeypatch.setattr("quiesce.run_folder.folder.refuse_existing", lambda _: None)
    with pytest.raises(RecipeError, match="exists already"), run_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "theirs").exists()


def test_a_locked_folder_lets_nobody_in_until_its_process_is_done(tmp_path):
    with locked(tmp_path):
        with pytest.raises(RecipeError, match="another process is training in"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_without_a_name_is_told_with_the_folder(tmp_path):
    (tmp_path / CHECKPOINT).parent.mkdir()
    (tmp_path / CHECKPOINT).touch()
    told = rf"{tmp_path} cannot be written: No space left .* are free\); make space; the last good"
    with pytest.raises(DiskFullError, match=told), explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
