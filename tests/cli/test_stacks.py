"""`quiesce stacks`."""

import json

from quiesce.cli import main
from quiesce.stacks.catalog import STACKS


def test_every_stack_is_listed_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["stacks"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for stack in STACKS:
        row = next(line for line in out.splitlines() if line.startswith(f"{stack.name} "))
        assert stack.conversion in row
        assert f"{stack.package} {stack.tested[0]}" in row


def test_the_installed_version_is_told_and_whether_it_is_tested(capsys, monkeypatch):
    monkeypatch.setattr("quiesce.stacks.catalog.version", lambda _: "0.18.7")
    assert main(["stacks"]) == 0
    out = capsys.readouterr().out
    assert "torchao 0.18.7," in out
    assert "brevitas 0.18.7 (not tested)" in out


def test_json_has_every_capability(capsys):
    assert main(["stacks", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["version"] == 1
    assert [each["name"] for each in tree["stacks"]] == [stack.name for stack in STACKS]
    names = {"compile", "ddp", "fsdp2", "conversion", "tested", "is_tested", "installed"}
    assert all(names <= set(each) for each in tree["stacks"])
