"""Rounding by chance and by memory inside a prepared model."""

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import TrackingError
from support.small_networks import Walk, one_layer, weights_only

IMAGES = torch.rand(4, 6, generator=torch.Generator().manual_seed(3))


def layer(estimator: qs.Estimator, count: int = 6, **changes) -> nn.Linear:
    """A prepared linear layer of `count` weights, of scale 1, at the code 2."""
    made = nn.Linear(count, 1, bias=False)
    nn.init.constant_(made.weight, 2.0)
    qs.prepare(made, weights_only(weight_bits=4, estimator=estimator, **changes), IMAGES[:1])
    made.weight_quantizer.set_grid(qs.Grid(4, signed=True), torch.tensor(1.0))
    made.weight_quantizer.remember(made.weight)
    return made


def test_stochastic_rounding_draws_anew_in_training_and_is_reproducible() -> None:
    model = layer(qs.StochasticRounding(), 6)
    nn.init.constant_(model.weight, 2.5)
    torch.manual_seed(7)
    seen = [model.weight_quantizer(model.latent) for _ in range(20)]
    assert len({tuple(each.flatten().tolist()) for each in seen}) > 1
    torch.manual_seed(7)
    assert all(torch.equal(each, model.weight_quantizer(model.latent)) for each in seen)


def test_the_backward_sees_the_noise_of_its_forward() -> None:
    model = layer(qs.StochasticRounding(), 6)
    nn.init.uniform_(model.weight, -3, 3)
    quantizer = model.weight_quantizer
    emitted = quantizer(model.latent)
    torch.rand(100)  # whoever else draws meanwhile
    emitted.sum().backward()
    slope = (emitted - model.latent).sum()  # d(scale * code)/d(scale) = code - u, at scale 1
    torch.testing.assert_close(quantizer.scale.grad, slope.detach())


def test_the_fused_quantizers_round_by_chance_too() -> None:
    plain, fused = layer(qs.StochasticRounding(), 6), layer(qs.StochasticRounding(), 6)
    for model in (plain, fused):
        nn.init.constant_(model.weight, 2.5)
    qs.compile(fused, "quantizers")
    torch.manual_seed(7)
    expected = plain(IMAGES)
    torch.manual_seed(7)
    assert torch.equal(fused(IMAGES), expected)


def test_frozen_codes_do_not_flicker() -> None:
    model = layer(qs.StochasticRounding(), 6)
    walk = Walk(model)
    nn.init.constant_(model.weight, 2.5)
    [weight] = walk.weights
    weight.freeze(torch.ones_like(model.latent, dtype=torch.bool), torch.full((1, 6), 3))
    assert (model.weight_quantizer(model.latent) == 3).all()


def test_hysteresis_follows_the_code_of_the_last_step_in_forward_tracker_and_strip() -> None:
    model = layer(qs.Hysteresis(width=0.5), 6)
    walk = Walk(model)
    [weight] = walk.weights
    ways = [  # latent and the code that it is given
        (2.7, 2),
        (2.8, 3),
        (2.3, 3),
        (2.2, 2),
        (2.7, 2),
    ]
    for latent, code in ways:
        walk.to(torch.full((1, 6), latent))
        assert weight.codes().unique().tolist() == [code]
        assert model.weight_quantizer(model.latent).unique().tolist() == [code]
        assert qs.strip(model).weight.unique().tolist() == [code]
    # 3 -> 2 turns against 2 -> 3: one oscillation of each of six weights, and 2 flips in 4 steps
    [report] = walk.tracker.report()
    assert (report.total_oscillations, report.flips_per_step) == (6, 3)


def test_hysteresis_lives_in_the_state_dict() -> None:
    model = layer(qs.Hysteresis(width=0.5), 6)
    walk = Walk(model)
    walk.to(torch.full((1, 6), 2.8))
    walk.to(torch.full((1, 6), 2.3))
    other = layer(qs.Hysteresis(width=0.5), 6)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))
    assert qs.quantized_weights(other)[0].codes().unique().tolist() == [3]


def test_hysteresis_in_training_needs_someone_who_keeps_the_history() -> None:
    model = layer(qs.Hysteresis(), 6)
    model.eval()(IMAGES)
    model.train()
    with pytest.raises(TrackingError, match=r"Hysteresis reads the code.*quiesce\.Control"):
        model(IMAGES)
    Walk(model)
    model(IMAGES)


def test_measuring_again_leaves_frozen_records_alone() -> None:
    model = layer(qs.Hysteresis(), 6)
    [weight] = qs.quantized_weights(model)
    mask = torch.tensor([[True, False, True, False, True, False]])
    weight.freeze(mask, torch.full((1, 6), 5))
    model.weight_quantizer.remember(torch.full((1, 6), -3.0))
    assert weight.codes().tolist() == [[5, 2, 5, 2, 5, 2]]  # latents stay near 2
    assert torch.equal(weight.frozen, mask)


def test_members_without_need_of_it_leave_the_history_to_the_tracker() -> None:
    model = one_layer(6)
    assert not model.weight_quantizer.history.any()


def test_inputs_have_an_estimator_of_their_own() -> None:
    scheme = weights_only(act_bits=4, first_input_bits=4, act_estimator=qs.EWGS())
    model = nn.Linear(6, 3)
    qs.prepare(model, scheme, IMAGES)
    assert model.input_quantizer.rule.estimator == qs.EWGS()
    assert model.weight_quantizer.rule.estimator == qs.STE()


def test_hysteresis_is_refused_for_inputs() -> None:
    with pytest.raises(ValueError, match="act_estimator must not need a history"):
        qs.Scheme(act_estimator=qs.Hysteresis())
