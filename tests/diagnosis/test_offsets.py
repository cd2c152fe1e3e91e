"""Offsets: where they are counted, what lies near a threshold, what is clipped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quiesce as qs
from quiesce.diagnosis import clipped, near_threshold, offset_histogram, offsets
from support.small_networks import one_layer, weights_only


def weight_at(*scaled, bits=3):
    """A weight whose latents, in codes, are these."""
    layer = one_layer(len(scaled), bits=bits, scale=0.5)
    layer.latent.data.copy_(0.5 * torch.tensor([scaled]))
    return qs.quantized_weights(layer)[0]


def test_the_offset_is_the_distance_to_the_code():
    found = offsets(weight_at(0.25, -0.25, 1.75, -4.0, 3.0))
    assert found.tolist() == [0.25, -0.25, -0.25, 0.0, 0.0]


def test_what_is_beyond_the_grid_has_no_offset():
    weight = weight_at(3.4, -4.2, 0.25, -0.125)  # the grid goes from -4 to 3
    assert offsets(weight).tolist() == [0.25, -0.125]
    assert clipped(weight) == 0.5


def test_near_a_threshold_counts_all_weights():
    weight = weight_at(0.495, -1.505, 0.3, 3.495)  # the last: clipped, there is no threshold
    assert near_threshold(weight) == 0.5
    assert near_threshold(weight, within=0.25) == 0.75


def test_a_frozen_weight_is_far_from_any_threshold():
    weight = weight_at(0.499, 1.499)
    weight.freeze(torch.tensor([[True, False]]), torch.tensor([[0.0, 0.0]]))
    assert near_threshold(weight) == 0.5


def test_scales_of_channels_are_used():
    layer = torch.nn.Linear(1, 2, bias=False)
    qs.prepare(layer, weights_only(per_channel=True), torch.zeros(1, 1))
    layer.weight_quantizer.scale.data.copy_(torch.tensor([[1.0], [2.0]]))
    layer.latent.data.copy_(torch.tensor([[1.25], [1.0]]))
    assert offsets(qs.quantized_weights(layer)[0]).tolist() == [0.25, 0.5]  # 0.5: half to even


def test_the_histogram_counts_from_threshold_to_threshold():
    histogram = offset_histogram(weight_at(0.5, -0.49, 0.0, 0.01, 1.3, 9.0), bins=4)
    assert histogram.edges == (-0.5, -0.25, 0.0, 0.25, 0.5)
    assert histogram.counts == (1, 0, 2, 2)


def test_the_histogram_has_as_many_bins_as_files_promise():
    histogram = offset_histogram(weight_at(0.1))
    assert (len(histogram.edges), len(histogram.counts)) == (51, 50)
    assert (histogram.edges[0], histogram.edges[-1]) == (-0.5, 0.5)


SIXTY_FOURTHS = st.integers(-6 * 64, 6 * 64).map(lambda count: count / 64)  # exact in float32


@given(st.lists(SIXTY_FOURTHS, min_size=1, max_size=20), st.sampled_from([2, 3, 8]))
def test_code_and_offset_make_the_latent(scaled, bits):
    weight = weight_at(*scaled, bits=bits)
    grid = weight.grid
    inside = [u for u in scaled if grid.quant_min <= u <= grid.quant_max]
    found = offsets(weight)
    assert len(found) == len(inside)
    assert bool((found.abs() <= 0.5).all())
    codes = torch.tensor(inside) - found
    assert torch.equal(codes, codes.round())
    assert sum(offset_histogram(weight).counts) == len(inside)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_does_not_matter(format):
    layer = torch.nn.Conv2d(3, 4, 3, bias=False)
    qs.prepare(layer, weights_only(), torch.zeros(1, 3, 5, 5))
    expected = offset_histogram(qs.quantized_weights(layer)[0])
    layer.to(memory_format=format)
    assert offset_histogram(qs.quantized_weights(layer)[0]) == expected
