"""Confidence-guided annealing: which weights learn, and from when on."""

import pytest
import torch

import quiesce as qs
from quiesce.errors import TrackingError
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network


def stepped(walk: Walk, updates: list[torch.Tensor]) -> None:
    """One optimizer step that adds these updates to the latents."""
    walk.optimizer.param_groups[0]["lr"] = 1.0
    for weight, update in zip(walk.weights, updates, strict=True):
        weight.latent.grad = -update
    walk.control.penalty()
    walk.optimizer.step()


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_only_what_is_at_a_threshold_moves(per_channel: bool) -> None:
    walk = Walk(prepared_network(per_channel=per_channel), [qs.CGA(0.1, begin=2)])
    noise = torch.Generator().manual_seed(0)
    moved = 0
    for step in range(6):
        before = [weight.latent.detach().clone() for weight in walk.weights]
        updates = [torch.randn(w.latent.shape, generator=noise) * w.scale for w in walk.weights]
        stepped(walk, updates)
        for weight, old, update in zip(walk.weights, before, updates, strict=True):
            place = (old / weight.scale).clamp(-4, 3)
            near = ((place - place.floor() - 0.5).abs() <= 0.1) | (step < 2)
            expected = torch.where(near, old + update, old)
            torch.testing.assert_close(weight.latent.detach(), expected, rtol=0, atol=0)
            moved += int(near.sum()) if step >= 2 else 0
    assert 0 < moved < sum(weight.latent.numel() for weight in walk.weights)


def test_beyond_the_ends_of_the_grid_there_is_no_threshold() -> None:
    walk = Walk(one_layer(4, scale=1.0), [qs.CGA(0.01)])
    places = torch.tensor([[2.5, 3.5, -3.5, -4.5]])  # codes are -4 to 3
    walk.weights[0].latent.data.copy_(places)
    stepped(walk, [torch.full((1, 4), 0.25)])
    assert (walk.weights[0].latent - places).tolist() == [[0.25, 0.0, 0.25, 0.0]]


def test_what_it_is_not_defined_for_is_refused() -> None:
    for name, value in (("boundary_range", 0), ("boundary_range", 0.6), ("begin", -1)):
        with pytest.raises(ValueError, match=telling(name, value)):
            qs.CGA(**{name: value})
    with pytest.raises(TrackingError, match=telling("CGA", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.CGA()])
