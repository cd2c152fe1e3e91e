"""`quiesce recipes`."""

from quiesce.cli import main
from quiesce.recipes.reading import shipped_recipes


def test_every_shipped_recipe_has_a_line_that_tells_what_it_is(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in shipped_recipes():
        (line,) = [line for line in lines if line.split(" ")[0] == name]
        assert "-bit weights and activations" in line


def test_an_argument_is_refused(capsys):
    assert main(["recipes", "more"]) == 2
    assert "unrecognized arguments: more" in capsys.readouterr().err
