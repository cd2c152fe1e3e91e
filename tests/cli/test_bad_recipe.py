"""Bad input, first half: recipes and flags. One line says what, where, and what then."""

import pytest

from quiesce.recipes.reading import shipped_recipes

QUICK = "mnist_freeze_w3a3"


def test_unknown_recipe(refused):
    assert "did you mean 'mnist_freeze_w3a3'?" in refused("train", "mnist_freze_w3a3")


def test_every_shipped_name_is_found_with_a_letter_missing(refused):
    for name in shipped_recipes()[::5]:
        assert f"did you mean '{name}'?" in refused("train", name[:3] + name[4:])


def test_unknown_field_in_a_flag(refused):
    told = refused("train", QUICK, "--cure.treshold.start", "0.1")
    assert "unknown field `cure.treshold.start`; did you mean 'cure.threshold.start'?" in told


def test_unknown_field_in_a_file(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("scheme: {wieght_bits: 3}")
    told = refused("train", "mine.yaml")
    assert "mine.yaml: unknown field `scheme.wieght_bits`; did you mean 'weight_bits'?" in told


def test_wrong_type(refused):
    told = refused("train", QUICK, "--scheme.weight_bits", "three")
    assert "`scheme.weight_bits` must be a whole number, got three" in told


@pytest.mark.parametrize("bits", [1, 9])
@pytest.mark.parametrize("field", ["weight_bits", "act_bits", "first_last_bits"])
def test_bits_out_of_range(field, bits, refused):
    told = refused("train", QUICK, f"--scheme.{field}={bits}")
    assert "scheme: " in told
    assert f"{field}" in told
    assert f"must be 2 to 8, got {bits}" in told


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5])
@pytest.mark.parametrize("end", ["start", "end"])
def test_threshold_outside_0_to_1(end, threshold, refused):
    told = refused("train", QUICK, f"--cure.threshold.{end}={threshold}")
    assert f"`threshold.{end}` must be above 0 and at most 1, got {float(threshold)}" in told


@pytest.mark.parametrize("momentum", [0, 1, 1.5])
def test_momentum_outside_0_to_1(momentum, refused):
    told = refused("train", QUICK, f"--tracker.momentum={momentum}")
    assert f"tracker: `momentum` must be above 0 and below 1, got {float(momentum)}" in told


def test_a_schedule_that_ends_before_it_begins(refused):
    told = refused("train", QUICK, "--cure.threshold.begin=1.2")
    assert "cure.threshold: `begin` must be 0 to below 1, got 1.2: the training ends at 1" in told
