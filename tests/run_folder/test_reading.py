"""Files of a run that are damaged, incomplete, or newer; and folders without runs."""

import json

import pytest

from quiesce.errors import RecipeError
from quiesce.run_folder.contents import ProbeFile, SweepFile
from quiesce.run_folder.folder import write_json
from quiesce.run_folder.reading import maybe_read, read_json, read_run, runs_in

PROBE = {"version": 1, "weights": 2, "samples": 1}


def test_what_was_written_is_read_again(tmp_path):
    probe = ProbeFile(weights=2, samples=1, step=7)
    write_json(tmp_path / "a.json", probe.tree())
    assert read_json(tmp_path / "a.json", ProbeFile) == probe


def test_unknown_keys_are_ignored_and_missing_optional_ones_have_defaults(tmp_path):
    write_json(tmp_path / "a.json", {**PROBE, "later": 3})
    assert read_json(tmp_path / "a.json", ProbeFile) == ProbeFile(weights=2, samples=1)


def test_a_file_that_is_not_there(tmp_path):
    assert maybe_read(tmp_path / "a.json", ProbeFile) is None
    with pytest.raises(RecipeError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json", ProbeFile)


def test_a_newer_version_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"version": 2})
    with pytest.raises(RecipeError, match=r"a\.json .* version 2.* up to 1"):
        read_json(tmp_path / "a.json", ProbeFile)
    (tmp_path / "recipe.yaml").write_text("version: 2")
    with pytest.raises(RecipeError, match=r"recipe\.yaml .* version 2"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"{}", b"3", b"\xff\xfe", b'{"version": "new"}']
)
def test_a_damaged_tree_is_refused_in_one_line(text, tmp_path):
    for name in ("summary.json", "recipe.yaml"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(RecipeError, match=rf"^.*{name} is damaged: .*; .* remove it$"):
            read_run(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": "many"}, "weights"),
        ({"weights": 2**60}, "weights"),
        ({"weights": 1.5}, "weights"),
        ({"before": {"loss": True, "top1_percent": 1}}, r"before\.loss"),
        ({"before": {"loss": 0.1}}, "top1_percent"),
        ({"sampled": {"each": [[1.0, 2.0], [3.0]]}}, r"sampled\.each\[1\]"),
    ],
)
def test_a_value_of_another_type_is_named(change, field, tmp_path):
    write_json(tmp_path / "a.json", PROBE | change)
    with pytest.raises(RecipeError, match=rf"a\.json is damaged: .*`{field}`"):
        read_json(tmp_path / "a.json", ProbeFile)


@pytest.mark.parametrize("folder", ["..", "a/b", "/etc", "", "."])
def test_no_run_of_a_sweep_is_outside_its_folder(folder, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "runs": [{"folder": folder}]}))
    with pytest.raises(RecipeError, match=r"`folder` must .*runs\[0\]"):
        read_json(tmp_path / "a.json", SweepFile)


def test_an_optional_field_is_left_out_of_the_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "runs": [{"folder": "a"}]}))
    (run,) = read_json(tmp_path / "a.json", SweepFile).tree()["runs"]
    assert "variant" not in run


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"is not a run folder: it has no recipe\.yaml"):
        runs_in(tmp_path)
    with pytest.raises(RecipeError, match="there is no such folder"):
        runs_in(tmp_path / "nowhere")
