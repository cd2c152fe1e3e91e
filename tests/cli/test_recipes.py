"""`quiesce recipes`."""

import json
import re

from quiesce.cli import main
from quiesce.recipes.catalog import shipped_recipes


def test_every_shipped_recipe_is_listed_with_its_description_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert set(shipped_recipes()) <= {line.split(" ")[0] for line in out.splitlines()}
    titles = re.findall(r"\d-bit weights and (\d-bit )?activations", " ".join(out.split()))
    assert len(titles) == len(shipped_recipes())


def test_json_lists_the_same(capsys):
    assert main(["recipes", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["version"] == 1
    assert [each["name"] for each in tree["recipes"]] == shipped_recipes()
    assert all("-bit weights" in each["description"] for each in tree["recipes"])


def test_an_argument_is_refused(capsys):
    assert main(["recipes", "more"]) == 2
    assert "unrecognized arguments: more" in capsys.readouterr().err
