"""Sweeps in a bucket of S3, which moto serves on this machine."""

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import boto3
import s3fs
from moto.server import ThreadedMotoServer

from quiesce.cli import main
from quiesce.sweeps import processes
from quiesce.sweeps.mirrored_sweep import fetch_copy
from quiesce.sweeps.status import read_status
from support.quick_worker import QUICK

URL = "s3://bucket/study"
COMMAND = ["sweep", "mnist_freeze_w3a3", "--set=cure.threshold.end=0.01,0.02", f"--output={URL}"]

pytestmark = pytest.mark.filterwarnings("ignore")  # botocore's own


@pytest.fixture
def service(monkeypatch, tmp_path):
    """S3 without a bucket and without credentials."""
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    address = "http://{}:{}".format(*moto.get_host_and_port())
    for name in ("AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    monkeypatch.setattr(processes, "WORKER", QUICK)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    moto.stop()


@pytest.fixture
def allowed(service, monkeypatch):
    """The same, with credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return boto3.client("s3")


def test_a_url_without_credentials_is_one_line(service, capsys):
    assert main(COMMAND) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "credentials" in err


def test_a_bucket_that_does_not_exist_is_one_line_and_is_not_made(allowed, capsys):
    assert main(COMMAND) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert allowed.list_buckets()["Buckets"] == []


def test_a_sweep_continues_on_another_machine(allowed, monkeypatch, tmp_path, capsys):
    allowed.create_bucket(Bucket="bucket")
    assert main([*COMMAND, "--trainer.max_epochs=1", "--at-most=1"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    assert [run.state for run in read_status(fetch_copy(URL)).runs] == ["done", "waiting"]
    assert main([*COMMAND, "--trainer.max_epochs=1"]) == 0
    out, err = capsys.readouterr()
    assert f"2 of 2 runs are finished in {URL}" in out
    assert err.count(": done") == 3  # a float network and two runs, in both calls together
