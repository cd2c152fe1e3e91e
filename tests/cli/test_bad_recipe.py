"""Bad input, first half: recipes and flags. One line says what, where, and what then."""

import pytest

from quiesce.recipes.reading import shipped_recipes
from support.messages import tells

QUICK = "mnist_freeze_w3a3"


def test_unknown_recipe(refused):
    assert "did you mean 'mnist_freeze_w3a3'?" in refused("train", "mnist_freze_w3a3")


def test_every_shipped_name_is_found_with_a_letter_missing(refused):
    for name in shipped_recipes()[::5]:
        assert f"did you mean '{name}'?" in refused("train", name[:3] + name[4:])


def test_unknown_field_in_a_flag(refused):
    told = refused("train", QUICK, "--cure.treshold.start", "0.1")
    assert tells(told, "`cure.treshold.start`", "'cure.threshold.start'")


def test_unknown_field_in_a_file(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("scheme: {wieght_bits: 3}")
    told = refused("train", "mine.yaml")
    assert tells(told, "mine.yaml", "`scheme.wieght_bits`", "'weight_bits'")


def test_wrong_type(refused):
    told = refused("train", QUICK, "--scheme.weight_bits", "three")
    assert tells(told, "`scheme.weight_bits`", "three")


@pytest.mark.parametrize("bits", [1, 9])
@pytest.mark.parametrize("field", ["weight_bits", "act_bits", "first_last_bits"])
def test_bits_out_of_range(field, bits, refused):
    told = refused("train", QUICK, f"--scheme.{field}={bits}")
    assert tells(told, "scheme", field, "2 to 8", f"got {bits}")


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5])
@pytest.mark.parametrize("end", ["start", "end"])
def test_threshold_outside_0_to_1(end, threshold, refused):
    told = refused("train", QUICK, f"--cure.threshold.{end}={threshold}")
    assert tells(told, f"`threshold.{end}`", f"got {float(threshold)}")


@pytest.mark.parametrize("momentum", [0, 1, 1.5])
def test_momentum_outside_0_to_1(momentum, refused):
    told = refused("train", QUICK, f"--tracker.momentum={momentum}")
    assert tells(told, "tracker", "`momentum`", f"got {float(momentum)}")


def test_a_schedule_that_ends_before_it_begins(refused):
    told = refused("train", QUICK, "--cure.threshold.begin=1.2")
    assert tells(told, "cure.threshold", "`begin`", "got 1.2")
