"""TRS: the update of each weight is the one at a learning rate that follows the transition rate."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import TrackingError
from quiesce.toy import Regression, simulate
from support.messages import telling
from support.small_networks import Walk, one_layer, prepared_network

IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(5)).double()
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-2}),
    "nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.5, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
}


def loss_of(model: nn.Module, step: int) -> Tensor:
    noise = torch.Generator().manual_seed(step)
    output = model(IMAGES)
    return (output - 3 * torch.randn(output.shape, generator=noise).double()).square().mean()


def network() -> nn.Module:
    torch.manual_seed(3)
    return prepared_network(overrides={"6": {"weight_bits": 8}}).double()


def by_hand(kind: type, options: dict, steps: int, factor: float) -> tuple[nn.Module, list[float]]:
    """The same training with a parameter group of their own for the latents, from the paper."""
    model = network()
    weights = [weight for weight in qs.quantized_weights(model) if weight.grid.bits == 3]
    latents = [weight.latent for weight in weights]
    scales = [scale for weight in weights for scale in weight.scale_parameters]
    apart = {id(parameter) for parameter in latents + scales}
    others = [each for each in model.parameters() if id(each) not in apart]
    optimizer = kind([{"params": latents}, {"params": others}], **options)
    first, level, rate = options["lr"], 1.0, 0.0
    codes, levels = None, []
    count = sum(latent.numel() for latent in latents)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = first * level
        optimizer.param_groups[1]["lr"] = first * (1 - step / steps)
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        now = torch.cat([weight.codes().flatten() for weight in weights])
        if codes is not None:
            rate = 0.99 * rate + 0.01 * int((now != codes).sum()) / count
        codes = now
        level = max(0.0, level + factor * math.sqrt(3) - rate)
        levels.append(level)
    return model, levels


@pytest.mark.filterwarnings("ignore:the optimizer applies weight decay")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("factor", [0.0, 0.02], ids=["to 0", "to a rate"])
def test_it_is_the_method_of_the_paper_with_any_optimizer(name: str, factor: float) -> None:
    kind, options = OPTIMIZERS[name]
    steps = 60
    expected, levels = by_hand(kind, options, steps, factor)
    model = network()
    optimizer = kind(model.parameters(), **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    weights = qs.quantized_weights(model)
    cure = qs.TRS(factor)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights, 0.2), [cure])
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        schedule.step()
        assert control.report()[0]["learning_rate"] == pytest.approx(levels[step], abs=1e-9)
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
    assert levels[-1] < 1 if factor == 0 else levels[-1] > 1


def test_a_weight_stops_when_its_code_changes_have_used_up_the_learning_rate() -> None:
    regression = Regression(0.3395)
    frequency = regression.frequency().item()
    trace = simulate(regression, lr=0.1, steps=200, cures=[qs.TRS(0.0)])
    changes = trace.code[:, 0].diff().ne(0).nonzero().flatten()
    begin, end = int(changes[0]), int(changes[-1])
    assert trace.latent[end + 40 :].diff(dim=0).abs().max() == 0
    # K = f (1 - 0.99^n) after n steps; its sum is the first learning rate, 1
    spent = sum(frequency * (1 - 0.99**n) for n in range(end - begin + 1))
    assert spent == pytest.approx(1, abs=frequency)


def test_scales_of_low_bit_weights_stay_and_others_learn() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    weights = qs.quantized_weights(model)
    qs.Control(optimizer, weights, qs.OscillationTracker(weights), [qs.TRS(0.01)])
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    moved = {
        name: not torch.equal(value, before[name])
        for name, value in model.state_dict().items()
        if name.endswith("scale")
    }
    assert moved == {
        "0.weight_quantizer.scale": False,
        "3.weight_quantizer.scale": False,
        "6.weight_quantizer.scale": True,
    }


def test_what_it_is_not_defined_for_is_refused() -> None:
    for name, value in (("factor", -1.0), ("factor", math.nan), ("eta", 0)):
        with pytest.raises(ValueError, match=telling(name, value)):
            qs.TRS(**{"factor": 0.1, name: value})
    with pytest.raises(TrackingError, match=telling("TRS", "4 bits", "8")):
        Walk(one_layer(8, bits=8), [qs.TRS(0.01)])
    with pytest.raises(TrackingError, match="one TRS"):
        Walk(one_layer(8), [qs.TRS(0.01), qs.TRS(0.02)])
