"""Every code of the grid is counted, used or not."""

import torch

import quiesce as qs
from quiesce.diagnosis import code_counts
from support.small_networks import one_layer


def test_codes_are_counted_as_the_network_computes_with_them():
    layer = one_layer(5, scale=0.5)
    layer.latent.data.copy_(0.5 * torch.tensor([[-9.0, 0.2, 0.4, 1.6, 3.0]]))
    weight = qs.quantized_weights(layer)[0]
    counts = code_counts(weight)
    assert counts.code == (-4, -3, -2, -1, 0, 1, 2, 3)
    assert counts.counts == (1, 0, 0, 0, 2, 0, 1, 1)


def test_a_frozen_code_counts_whatever_the_latent_is():
    layer = one_layer(1, scale=0.5)
    weight = qs.quantized_weights(layer)[0]
    weight.freeze(torch.tensor([[True]]), torch.tensor([[2.0]]))
    layer.latent.data.fill_(-9.0)
    assert dict(zip(code_counts(weight).code, code_counts(weight).counts, strict=True))[2] == 1
