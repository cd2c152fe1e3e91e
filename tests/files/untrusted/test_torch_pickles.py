"""Files of torch.save that would grow in memory."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from quiesce.files.untrusted.torch_pickles import refuse_absurd


@pytest.fixture
def saved(tmp_path) -> Path:
    content = {"a": torch.arange(4.0), "b": torch.nn.Parameter(torch.zeros(2, dtype=torch.half))}
    more = {"set": {1, 2}, "bytes": b"x", "complex": 1j, "size": torch.Size([1])}
    torch.save(content | more, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def rewritten(path: Path, change, how: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive again with other content in its pickle."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", how) as new:
        for name, content in members.items():
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return path


def test_what_torch_saved_passes_in_both_formats(saved) -> None:
    refuse_absurd(saved)
    content = torch.load(saved, weights_only=True)
    old = saved.with_name("old.pt")
    torch.save(content, old, _use_new_zipfile_serialization=False)
    refuse_absurd(old)


def test_compressed_archives_are_refused(saved) -> None:
    path = rewritten(saved, lambda content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"compressed, which torch\.save does not do"):
        refuse_absurd(path)


def test_a_storage_can_not_claim_more_than_its_bytes(saved) -> None:
    whole = b"X\x03\x00\x00\x00cpuq\x06K\x04"  # of four floats

    def claim(content: bytes) -> bytes:
        assert whole in content
        return content.replace(whole, whole[:-2] + b"J\x00\x00\x00\x7f")

    with pytest.raises(ValueError, match="its storage 0 claims 2130706432 elements"):
        refuse_absurd(rewritten(saved, claim))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bytearray_of_any_size_is_refused(legacy, saved) -> None:
    harmful = b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R."  # two billion bytes
    if legacy:
        saved.write_bytes(harmful)
    else:
        rewritten(saved, lambda _: harmful)
    with pytest.raises(ValueError, match="holds a bytearray"):
        refuse_absurd(saved)


def test_looking_through_makes_no_object(saved, tmp_path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "proof",)

    rewritten(saved, lambda _: pickle.dumps(Harmful(), 2))
    refuse_absurd(saved)  # torch.load refuses it, see test_weight_files
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    "content", [pickle.BYTEARRAY8 + (2**40).to_bytes(8, "little"), pickle.LONG_BINPUT + b"\xff" * 4]
)
def test_sizes_inside_a_pickle_are_not_believed(content, saved) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        refuse_absurd(rewritten(saved, lambda _: pickle.PROTO + b"\x05" + content))


@pytest.mark.parametrize("name", ["a/data.pkl", "a/DATA.pkl"])
def test_no_part_hides_behind_another_of_its_name(name, saved) -> None:
    """Of two, torch could read the one that was not looked through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the very thing
        with zipfile.ZipFile(saved, "a") as archive:
            archive.writestr(name, b"\x80\x02}.")
    with pytest.raises(ValueError, match="two of its parts have the same name"):
        refuse_absurd(saved)


def test_parts_that_overlap_are_refused(saved) -> None:
    content = saved.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    central = content.rindex(largest.filename.encode()) - 46
    changed = bytearray(content)
    changed[central + 20 : central + 28] = (2**30).to_bytes(4, "little") * 2
    saved.write_bytes(changed)
    with pytest.raises(ValueError, match="claim more bytes than it has"):
        refuse_absurd(saved)
