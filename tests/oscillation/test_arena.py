"""Arenas: weights side by side in memory, and still the parameters that they were."""

import copy

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import TrackingError
from quiesce.oscillation.arena import ROW, arenas
from support.small_networks import Walk, prepared_network


def in_arena(model: nn.Module) -> qs.OscillationTracker:
    return qs.OscillationTracker(qs.quantized_weights(model))


@pytest.mark.parametrize("per_channel", [False, True])
def test_parameters_stay_what_they_are_and_lie_in_few_stretches_of_memory(per_channel) -> None:
    model = prepared_network(per_channel=per_channel)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    tracker = in_arena(model)
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    memories = {home.latents.untyped_storage().data_ptr() for home in tracker.arenas}
    used = {weight.latent.untyped_storage().data_ptr() for weight in tracker.weights}
    assert used == memories
    assert all(weight.latent.is_leaf for weight in tracker.weights)


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_entry_has_the_scale_and_the_place_of_its_weight(per_channel: bool) -> None:
    model = prepared_network(per_channel=per_channel)
    for home in arenas(qs.quantized_weights(model)):
        now = home.read()
        scale = now.scale.expand(-1, ROW).contiguous()
        for i, weight in enumerate(home.weights):
            assert torch.equal(home.layer(home.latents, i), weight.latent)
            assert torch.equal(home.layer(scale, i), weight.scale.expand_as(weight.latent))
            where = torch.arange(weight.latent.numel()) + home._starts[i]
            assert home.count(where).tolist() == [
                len(where) * (j == i) for j in range(len(home.weights))
            ]


def test_a_copy_of_the_model_has_memory_of_its_own() -> None:
    model = prepared_network()
    tracker = in_arena(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in qs.quantized_weights(twin):
            weight.latent.add_(1.0)
    originals = {weight.name: weight for weight in tracker.weights}
    for weight in qs.quantized_weights(twin):
        torch.testing.assert_close(weight.latent, originals[weight.name].latent + 1.0)


def test_a_weight_that_was_replaced_is_taken_in_again() -> None:
    walk = Walk(prepared_network(), [qs.Freezing(0.2, max_frozen=None)], momentum=0.1)
    walk.at_random(3)
    for weight in walk.weights:
        weight.latent.data = weight.latent.detach() + 2 * weight.scale  # as other libraries do
    moved = {weight.name: weight.codes() for weight in walk.weights}
    walk.tracker.step()
    for home in walk.tracker.arenas:
        for i, weight in enumerate(home.weights):
            assert weight.latent.data_ptr() == home.layer(home.latents, i).data_ptr()
            assert torch.equal(weight.codes(), moved[weight.name])
            frozen = weight.frozen
            codes = home.layout.quant_min + (weight.history & 15).to(torch.int8)
            assert torch.equal(codes[~frozen], moved[weight.name][~frozen])


def test_another_dtype_is_refused_with_what_to_do() -> None:
    model = prepared_network()
    tracker = in_arena(model)
    model.double()
    with pytest.raises(TrackingError, match=r"move the model first, then make the tracker"):
        tracker.step()
