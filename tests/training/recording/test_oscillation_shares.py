"""One number over several layers: each weight counts once."""

import pytest

from quiesce.oscillation.layer_report import LayerReport
from quiesce.training.recording.oscillation_shares import over, up_to


def layer(bits, weights, oscillating):
    return LayerReport(
        name="x",
        weights=weights,
        bits=bits,
        oscillating=oscillating,
        frozen=0.5,
        flips_per_step=2.0,
        total_oscillations=0,
        distance_ratio=None,
        transition_rate=0.1,
    )


def test_weights_count_alike_whatever_layer_they_are_in():
    seen = over([layer(3, 10, 0.5), layer(3, 30, 0.1)])
    assert seen.weights == 40
    assert seen.oscillating == pytest.approx(8 / 40)
    assert seen.frozen == pytest.approx(0.5)
    assert seen.flips_per_step == 4.0


def test_of_no_layer_there_is_no_share():
    assert over([]).oscillating is None


def test_wider_layers_are_left_out():
    layers = [layer(8, 1, 0.0), layer(3, 1, 0.0), layer(2, 1, 0.0), layer(None, 1, 0.0)]
    assert [each.bits for each in up_to(3, layers)] == [3, 2]
