"""Q-Ramping: which weights wait for their updates, and for how long."""

import pytest
import torch
from torch import Tensor

import quiesce as qs
from quiesce.errors import TrackingError
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network

ALPHA, BETA, PERIOD, WINDOW, BEGIN = 0.9, 2, 12, 4, 3


class ByHand:
    """The latents of one weight tensor under Q-Ramping, from the published rule."""

    def __init__(self) -> None:
        self.interval = self.latent_way = self.code_way = self.pending = torch.zeros(())

    def step(self, step: int, before: Tensor, after: Tensor, weight: qs.QuantizedWeight) -> Tensor:
        phase = (step - BEGIN) % PERIOD
        if step < BEGIN:
            return after
        if phase < WINDOW:
            if phase == 0:
                self.latent_way, self.code_way = torch.zeros(()), torch.zeros(())
            codes = [torch.round(w / weight.scale).clamp(-4, 3) for w in (before, after)]
            self.code_way = self.code_way + weight.scale * (codes[1] - codes[0]).abs()
            self.latent_way = self.latent_way + (after - before).abs()
            ratio = torch.where(self.latent_way > 0, self.code_way / (ALPHA * self.latent_way), 0)
            self.interval, self.pending = 1 + BETA * ratio.floor(), torch.zeros_like(after)
            return after
        self.pending = self.pending + (after - before)
        due = (phase - WINDOW + 1) % self.interval == 0
        if phase == PERIOD - 1:
            due = torch.ones_like(due)
        made = torch.where(due, before + self.pending, before)
        self.pending = torch.where(due, 0, self.pending)
        return torch.where(self.interval > 1, made, after)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_what_travels_too_far_waits_and_nothing_else(per_channel: bool) -> None:
    cure = qs.QRamping(ALPHA, BETA, period=PERIOD, window=WINDOW, begin=BEGIN)
    walk = Walk(prepared_network(per_channel=per_channel), [cure])
    walk.optimizer.param_groups[0]["lr"] = 1.0
    noise = torch.Generator().manual_seed(0)
    hands = [ByHand() for _ in walk.weights]
    for step in range(BEGIN + 2 * PERIOD + WINDOW + 2):
        before = [weight.latent.detach().clone() for weight in walk.weights]
        for weight in walk.weights:
            update = torch.randn(weight.latent.shape, generator=noise) * weight.scale
            weight.latent.grad = 0.5 * update + 0.1 * weight.latent.detach()
        walk.control.penalty()
        walk.optimizer.step()
        for weight, hand, old in zip(walk.weights, hands, before, strict=True):
            assert weight.latent.grad is not None
            expected = hand.step(step, old, old - weight.latent.grad, weight)
            torch.testing.assert_close(weight.latent.detach(), expected)
    ramped = sum(int((hand.interval > 1).sum()) for hand in hands)
    assert walk.control.report() == [{"cure": "QRamping", "ramped": ramped}]
    intervals = torch.cat([hand.interval.flatten() for hand in hands]).unique().tolist()
    assert intervals[:2] == [1, 1 + BETA]


def test_nothing_is_lost_by_the_end_of_a_period() -> None:
    layer = one_layer(2, scale=0.5)
    walk = Walk(layer, [qs.QRamping(2.0, 5, period=9, window=4)])
    walk.optimizer.param_groups[0]["lr"] = 1.0
    (weight,) = walk.weights
    weight.latent.data.copy_(torch.tensor([[0.24, 0.1]]))
    for step in range(9):  # the first weight oscillates across 0.25 in the window, and then climbs
        swing = (0.02, -0.02)[step % 2] if step < 4 else 0.01
        weight.latent.grad = -torch.tensor([[swing, 0.01]])
        walk.control.penalty()
        walk.optimizer.step()
        if 4 <= step < 8:
            assert weight.latent[0, 0].item() == pytest.approx(0.24)
        assert weight.latent[0, 1].item() == pytest.approx(0.1 + 0.01 * (step + 1))
    assert weight.latent[0, 0].item() == pytest.approx(0.24 + 5 * 0.01)
    assert walk.control.report() == [{"cure": "QRamping", "ramped": 1}]


def test_what_it_is_not_defined_for_is_refused() -> None:
    for name, value in (("alpha", 0), ("beta", 0), ("window", 0), ("period", 30), ("begin", -1)):
        with pytest.raises(ValueError, match=telling(name, value)):
            qs.QRamping(**{"period": 100, name: value})
    with pytest.raises(TrackingError, match=telling("QRamping", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.QRamping(period=100)])
    with pytest.raises(TrackingError, match=telling("0", "QRamping", "QEMA")):
        Walk(prepared_network(estimator=qs.QEMA()), [qs.QRamping(period=100)])
    with pytest.raises(TrackingError, match="keep one QRamping"):
        Walk(one_layer(8), [qs.QRamping(period=100), qs.QRamping(period=200)])
