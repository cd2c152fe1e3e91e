import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest
import torch

from data import resuming
from quiesce.data import DataConfig, build_data, webdataset
from quiesce.data.tar_index import Endings, read_index
from quiesce.errors import DataError, MissingExtraError
from support.messages import tells
from support.pictures import jpeg

wds = pytest.importorskip("webdataset", reason="needs the extra webdataset")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(webdataset, "PIECE_BYTES", 6000)  # two or three pictures


def write(folder: Path, name: str, samples: list[dict], per_shard: int = 8) -> str:
    """Write shards with the package, and return their pattern."""
    folder.mkdir(exist_ok=True)
    pattern = str(folder / f"{name}-%02d.tar")
    with wds.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04d}", **sample})
    return str(folder / f"{name}-*.tar")


def samples(count: int) -> list[dict]:
    return [{"jpg": jpeg(number), "cls": number % 3} for number in range(count)]


@pytest.fixture
def shards(tmp_path) -> dict[str, str]:
    """Fields of a config: six training shards with 44 pictures, and a test shard with 7."""
    train, test = write(tmp_path, "train", samples(44)), write(tmp_path, "test", samples(7))
    return {"train_shards": train, "test_shards": test}


def config(fields: dict, **more) -> DataConfig:
    return DataConfig(name="webdataset", **{"image_size": 16, "batch_size": 4, **fields, **more})


def refused(fields: dict, **more) -> str:
    with pytest.raises(DataError) as raised:
        build_data(config(fields, **more), seed=0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_shards_give_their_pictures_and_classes(shards) -> None:
    data = build_data(config(shards), seed=0)
    images, labels = next(iter(data.train))
    assert data.classes == ("0", "1", "2")
    assert data.input_shape == (3, 16, 16)
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert [int(label) for _, batch in data.test for label in batch] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package does not close its files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_read_is_what_the_package_reads(shards) -> None:
    ours = webdataset.Shards(config(shards), "train_shards")
    theirs = wds.WebDataset(ours.urls, shardshuffle=False)
    expected = [(sample["jpg"], int(sample["cls"])) for sample in theirs]
    found = [(ours.read(index), int(ours.labels[index])) for index in range(44)]
    assert len(ours.begins) > 12  # pieces
    assert found == expected
    assert [ours.read(index) for index in reversed(range(44))] == [x for x, _ in expected[::-1]]


def test_an_epoch_has_every_picture_once(shards) -> None:
    made = config(shards, augment="none")
    loader = build_data(made, seed=0).train
    every = [float(loader.dataset[0, index][0].double().sum()) for index in range(44)]
    assert resuming.sums(list(loader)) == sorted(every)


def test_the_batches_depend_on_the_seed_alone(shards) -> None:
    assert resuming.depends_on_the_seed_alone(config(shards))


def test_workers_change_the_order_of_batches_and_no_image(shards) -> None:
    made = config(shards)
    alone, shared = (resuming.epochs(resuming.with_workers(made, w), 1) for w in (0, 2))
    assert resuming.sums(alone) == resuming.sums(shared)
    assert resuming.same(alone[:6], shared[0::2])  # the first half is that of the first worker


@pytest.mark.parametrize(("workers", "taken"), [(0, 3), (1, 4), (2, 5)])
def test_a_resumed_loader_goes_on_with_the_next_batch(workers, taken, shards) -> None:
    assert resuming.goes_on(config(shards, workers=workers), taken)


def test_a_worker_reads_a_piece_once_an_epoch(shards, monkeypatch) -> None:
    loader = build_data(config(shards, check_up_to=0), seed=0).train
    shards_read = loader.dataset.images.encoded
    read, pieces = [], shards_read._read_piece
    monkeypatch.setattr(shards_read, "_read_piece", lambda p, i: read.append(p) or pieces(p, i))
    list(loader)
    assert sorted(read) == list(range(len(shards_read.begins)))


def test_braces_and_several_patterns_name_shards(tmp_path, shards) -> None:
    braces = str(tmp_path / "train-{00..02}.tar")
    assert len(webdataset.expanded(braces, "data.train_shards")) == 3
    both = f"{braces}::{tmp_path / 'test-00.tar'}"
    assert webdataset.expanded(both, "")[-1] == str(tmp_path / "test-00.tar")
    assert len(webdataset.expanded(shards["train_shards"], "")) == 6


def test_other_endings_are_named(tmp_path) -> None:
    other = [{"input.png": jpeg(n), "fine.cls": n % 2} for n in range(8)]
    fields = {name: write(tmp_path, name, other) for name in ("train_shards", "test_shards")}
    told = refused(fields)
    assert tells(told, "0000", ".jpg or jpeg", ".fine.cls, .input.png", "data.image_column")
    assert "data.label_column" in refused(fields, image_column="input.png")
    named = config(fields, image_column="input.png", label_column="fine.cls")
    assert build_data(named, seed=0).classes == ("0", "1")


def test_a_shard_that_is_cut_off_is_named(tmp_path, shards) -> None:
    last = tmp_path / "train-05.tar"
    content = last.read_bytes()
    with tarfile.open(last) as tar:
        header = tar.getmembers()[4].offset
    for length in (len(content) // 2, header, header + 100, header + 700):
        last.write_bytes(content[:length])
        assert tells(refused(shards), last, "is cut off")


def test_a_file_that_is_no_tar_file_is_named(tmp_path, shards) -> None:
    (tmp_path / "train-03.tar").write_bytes(b"no tar file at all" * 100)
    assert tells(refused(shards), tmp_path / "train-03.tar", "is not a tar file")


def test_shards_without_pictures_are_refused(tmp_path, shards) -> None:
    tarfile.open(tmp_path / "empty.tar", "w").close()
    told = refused({**shards, "test_shards": str(tmp_path / "empty.tar")})
    assert tells(told, "data.test_shards", tmp_path / "empty.tar", "no image")


def test_missing_shards_are_named(tmp_path, shards) -> None:
    nowhere = str(tmp_path / "nowhere.tar")
    assert tells(refused({**shards, "test_shards": nowhere}), nowhere, "cannot be read")
    assert tells(refused({**shards, "test_shards": str(tmp_path / "x-*.tar")}), "x-*.tar")
    assert "data.test_shards" in refused({"train_shards": shards["train_shards"]})
    assert "data.train_shards" in refused({})


def test_an_unknown_kind_of_url_is_one_line(shards) -> None:
    assert tells(refused({**shards, "test_shards": "abc://x/test.tar"}), "abc://x/test.tar")


def test_a_url_that_runs_a_command_is_refused(shards, tmp_path) -> None:
    told = refused({**shards, "test_shards": f"pipe:touch {tmp_path / 'ran'}"})
    assert tells(told, "data.test_shards", "pipe:")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("label", [b"dog", b"1.5", b""])
def test_a_label_that_is_no_whole_number_is_refused(label: bytes, tmp_path, shards) -> None:
    wrong = write(tmp_path, "wrong", [*samples(2), {"jpg": jpeg(2), "cls": label}])
    assert tells(refused({**shards, "train_shards": wrong}), "0002.cls", repr(label))


def test_labels_out_of_range_are_refused(tmp_path, shards) -> None:
    high = write(tmp_path, "high", [{"jpg": jpeg(0), "cls": 7}])
    assert tells(refused({**shards, "test_shards": high}), "data.test_shards", "7", "2")
    low = write(tmp_path, "low", [{"jpg": jpeg(0), "cls": -1}])
    assert tells(refused({**shards, "test_shards": low}), "data.test_shards", "-1")


def test_fewer_shards_than_workers_are_refused(shards) -> None:
    single = {**shards, "train_shards": shards["train_shards"].replace("*", "00")}
    loader = build_data(config(single, workers=2), seed=0).train
    with pytest.raises(DataError) as raised:
        next(iter(loader))
    assert tells(str(raised.value), "data.train_shards", "1 shards", "2 readers", "data.workers 2")


def test_a_damaged_picture_is_found_before_training(tmp_path, shards) -> None:
    pictures = samples(20)
    pictures[11]["jpg"] = pictures[11]["jpg"][:300]
    fields = {**shards, "test_shards": write(tmp_path, "damaged", pictures)}
    assert tells(refused(fields), "1 of 64", f"{tmp_path / 'damaged-01.tar'}: sample 3")


@pytest.mark.parametrize("workers", [0, 1])
def test_among_many_it_is_named_when_it_is_read(workers: int, tmp_path, shards) -> None:
    pictures = samples(6)
    pictures[2]["jpg"] = b"no picture"
    fields = {**shards, "test_shards": write(tmp_path, "damaged", pictures)}
    data = build_data(config(fields, check_up_to=0, workers=workers), seed=0)
    with pytest.raises(DataError) as raised:
        list(data.test)
    assert tells(str(raised.value), "damaged-00.tar: sample 2 cannot be decoded", " 2 ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_lost_while_training_is_named(workers: int, tmp_path, shards) -> None:
    data = build_data(config(shards, check_up_to=0, workers=workers), seed=0)
    (tmp_path / "test-00.tar").unlink()
    with pytest.raises(DataError) as raised:
        list(data.test)
    assert tells(str(raised.value), tmp_path / "test-00.tar")
    assert "\n" not in str(raised.value)


def test_an_index_is_kept_until_the_shard_changes(tmp_path, shards) -> None:
    shard = str(tmp_path / "train-00.tar")
    first = read_index(shard, Endings())
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    numpy.save(kept, first + 1)
    assert numpy.array_equal(read_index(shard, Endings()), first + 1)
    write(tmp_path, "train", samples(3))
    assert len(read_index(shard, Endings())) == 3
    kept.write_bytes(b"damaged")
    assert len(read_index(shard, Endings())) == 3


class Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, as servers of data do."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        content, status = path.read_bytes(), 200
        if asked := self.headers.get("Range"):
            begin, end = asked.removeprefix("bytes=").split("-")
            content, status = content[int(begin) : int(end or len(content)) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_the_batches_of_local_ones(workers: int, shards, served) -> None:
    urls = {
        "train_shards": f"{served}/train-{{00..05}}.tar",
        "test_shards": f"{served}/test-00.tar",
    }
    expected = resuming.epochs(config(shards, workers=workers), 1)
    assert resuming.same(resuming.epochs(config(urls, workers=workers), 1), expected)


def test_a_remote_shard_that_is_missing_is_one_line(shards, served) -> None:
    url = f"{served}/nowhere.tar"
    assert tells(refused({**shards, "test_shards": url}), url)


def test_the_missing_package_is_named_with_its_extra(monkeypatch, shards) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'quiesce\[webdataset\]'"):
        build_data(config(shards), seed=0)
