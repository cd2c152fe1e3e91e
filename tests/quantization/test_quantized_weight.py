"""The view of a quantized weight: what it tells, and what it may be asked to do."""

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.quantization.quantized_weight import QuantizedWeight
from support.small_networks import one_layer, prepared_network, weights_only


def test_codes_are_the_integers_that_the_network_computes_with() -> None:
    model = prepared_network(per_channel=True)
    for weight in qs.quantized_weights(model):
        codes = weight.codes()
        assert codes.dtype == torch.int8
        assert codes.shape == weight.latent.shape
        assert codes.min() >= weight.grid.quant_min
        assert codes.max() <= weight.grid.quant_max
        emitted = weight.module.weight_quantizer(weight.latent)
        assert torch.equal(weight.scale * codes, emitted)


def test_eight_bits_fit_into_a_code() -> None:
    layer = one_layer(2, bits=8, scale=1.0)
    layer.weight.data.copy_(torch.tensor([-500.0, 500.0]))
    assert qs.quantized_weights(layer)[0].codes().tolist() == [[-128, 127]]


def test_reading_changes_nothing_and_gives_nothing_to_learn_by() -> None:
    model = prepared_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for weight in qs.quantized_weights(model):
        for value in (weight.codes(), weight.scale, weight.frozen):
            assert not value.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_freezing_pins_code_and_latent() -> None:
    model = prepared_network(per_channel=True)
    [weight, *_] = qs.quantized_weights(model)
    codes, free = weight.codes(), weight.latent.detach().clone()
    chosen = torch.rand(weight.latent.shape) < 0.5
    pinned = (codes + 1).clamp(max=3)
    weight.freeze(chosen, pinned)
    assert torch.equal(weight.frozen, chosen)
    assert torch.equal(weight.codes(), torch.where(chosen, pinned, codes))
    assert torch.equal(weight.latent, torch.where(chosen, weight.scale * pinned, free))


def test_what_is_frozen_survives_a_change_of_memory_format() -> None:
    model = prepared_network(per_channel=True)
    [weight, *_] = qs.quantized_weights(model)
    chosen = torch.rand(weight.latent.shape) < 0.5
    weight.freeze(chosen, -weight.codes().clamp(min=-3))
    codes, images = weight.codes(), torch.rand(2, 3, 6, 6)
    output = model.eval()(images)
    model.to(memory_format=torch.channels_last)
    assert torch.equal(weight.codes(), codes)
    assert torch.equal(weight.frozen, chosen)
    torch.testing.assert_close(model(images), output)


def test_it_says_what_it_is() -> None:
    [weight, *_] = qs.quantized_weights(prepared_network())
    assert "'0', (4, 3, 3, 3), Grid(bits=3, signed=True" in repr(weight)


def test_the_quantizer_of_an_activation_is_no_weight() -> None:
    layer = one_layer(2)
    view = QuantizedWeight("layer", layer.weight, qs.FakeQuantizer(4), layer)
    with pytest.raises(TypeError, match="layer: this quantizer is for activations"):
        _ = view.history


GAPS = {
    "half of each row": lambda: torch.randn(4, 8)[:, :4],
    "every second entry": lambda: torch.randn(4, 8)[:, ::2],
    "one row for all": lambda: torch.randn(4).expand(4, 4),
}


@pytest.mark.parametrize("make", GAPS.values(), ids=GAPS)
def test_a_weight_with_gaps_in_memory_is_refused_before_there_is_one(make) -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(make())
    with pytest.raises(qs.QuiesceError, match="a slice with gaps in memory"):
        qs.prepare(layer, weights_only(), torch.zeros(1, 4))
    layer.weight = nn.Parameter(layer.weight.detach().clone())  # as the message says
    qs.prepare(layer, weights_only(), torch.zeros(1, 4))
