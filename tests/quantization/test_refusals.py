"""Advice that works in one go: all layers at once, as patterns."""

import re
from ast import literal_eval

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import quiesce as qs
from quiesce.errors import NotCalibratedError, PrepareError
from quiesce.quantization.patterns import covering
from support.small_networks import weights_only


def advised(message: str) -> list[str]:
    """The patterns that a message says to exclude."""
    return literal_eval(re.search(r"Scheme\(exclude=(\[.*?\])\)", message)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_of_training_can_be_left_out_in_one_go(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, init_weights=False, num_classes=5)
    images = torch.rand(2, 3, 299, 299)
    with pytest.raises(PrepareError) as caught:
        qs.prepare(model, weights_only(), images)
    patterns = advised(str(caught.value))
    assert len(patterns) <= 2
    qs.prepare(model, weights_only(exclude=patterns), images)
    model.train()(images)[0].sum().backward()  # the heads run, in float
    assert all(type(m) is nn.Linear for n, m in model.named_modules() if re.match(r"aux.*fc", n))


class Sometimes(nn.Module):
    """Twelve layers of which a forward on negative numbers reaches two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.branch = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(10)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if x.sum() > 0:
            for layer in self.branch:
                y = layer(y)
        return self.head(y)


def test_calibration_names_all_layers_that_no_batch_reached() -> None:
    below, above = -torch.ones(2, 4), torch.ones(2, 4)
    model = qs.prepare(Sometimes(), weights_only(act_bits=4), above)
    with pytest.raises(NotCalibratedError, match="10 in all") as caught:
        qs.calibrate(model, [below])
    patterns = advised(str(caught.value))
    assert patterns == ["branch.*"]
    model = qs.prepare(Sometimes(), weights_only(act_bits=4, exclude=patterns), above)
    qs.calibrate(model, [below])


def test_layers_that_fail_for_several_reasons_are_named_at_once() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.past = nn.Linear(4, 4), nn.Linear(4, 4)
            self.spare = nn.Sequential(*[nn.Linear(4, 4) for _ in range(7)])
            self.normed = nn.Sequential(
                *[parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)]
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.normed(self.stem(x))
            return self.past(y) + nn.functional.linear(y, self.past.weight)

    with pytest.raises(PrepareError) as caught:
        qs.prepare(Odd(), weights_only(), torch.ones(2, 4))
    patterns = advised(str(caught.value))
    assert set(patterns) == {"past", "spare.*", "normed.*"}
    model = qs.prepare(Odd(), weights_only(exclude=patterns), torch.ones(2, 4))
    assert [weight.name for weight in qs.quantized_weights(model)] == ["stem"]


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        (["a.b", "a.c"], ["d"], ["a.*"]),
        (["a.b.c", "a.b.d"], ["a.e"], ["a.b.*"]),
        (["a"], ["a1", "b"], ["a"]),
        (["a.b"], ["a.bc"], ["a.b"]),
        (["a.b"], ["c"], ["a.b"]),
        ([], ["a"], []),
    ],
)
def test_patterns_match_all_names_and_no_others(names, others, patterns) -> None:
    assert covering(names, others) == patterns
