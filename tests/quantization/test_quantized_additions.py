"""Additions on grids: what is rounded, what is shared, and that blocks stay what they were."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from quiesce.errors import PrepareError
from quiesce.models.small_mobilenet import SmallMobileNetV2
from quiesce.quantization.quantized_additions import Addition
from quiesce.quantization.quantizer import FakeQuantizer
from support.messages import telling


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        return y


class Outer(Block):
    """A block in a block: each keeps to its own addition."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Block()
        self.shift = nn.Parameter(torch.zeros(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.inner(self.conv(x) + self.shift), x)


def stacked(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), block, nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(144, 3)
    )


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 6, 6)


def prepared(model: nn.Module, batch: Tensor, bits: int = 3) -> nn.Module:
    scheme = qs.Scheme(weight_bits=bits, act_bits=bits, residual="quantized", grad_scaling=True)
    return qs.calibrate(qs.prepare(model, scheme, batch[:1]), [batch])


def additions(model: nn.Module) -> dict[str, Addition]:
    return {n: module for n, module in model.named_modules() if isinstance(module, Addition)}


@pytest.mark.parametrize("block", [Block, InPlace])
def test_both_operands_are_on_grids(block) -> None:
    model = prepared(stacked(block()), images())
    ((name, addition),) = additions(model).items()
    assert name == "2.additions.0"
    seen = {}
    model[2].register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    model[2].conv.register_forward_hook(lambda _, __, out: seen.update(y=out))
    with torch.no_grad():
        model(images())
        expected = addition.left(seen["y"]) + addition.right(seen["x"])
    assert torch.equal(seen["out"], expected)
    assert len(torch.unique(addition.right(seen["x"]))) <= 8


def test_what_reads_one_tensor_shares_one_quantizer() -> None:
    model = prepared(SmallMobileNetV2(), torch.randn(4, 1, 28, 28))
    blocks = model.blocks
    for number in (2, 4, 5):
        (addition,) = blocks[number].additions
        assert addition.left is blocks[number].expand[0].input_quantizer
    (fourth,) = blocks[4].additions
    assert fourth.right is not fourth.left
    shared = {id(q) for q in model.modules() if isinstance(q, FakeQuantizer)}
    assert len(shared) == 21 + 20 + 4  # weights, inputs but the image, one more for each addition


def test_nested_blocks_and_parameters() -> None:
    model = prepared(stacked(Outer()), images())
    assert list(additions(model)) == ["2.inner.additions.0", "2.additions.0"]
    calls = []
    for name, addition in additions(model).items():
        addition.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(images())
    assert calls == ["2.inner.additions.0", "2.additions.0"]


class Scaled(nn.Conv2d):
    """A layer whose own forward adds."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + y * 0.3


class Adapted(nn.Module):
    """A block with such a layer; which of its two additions is the block's own is to be told."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@pytest.mark.slow
@pytest.mark.parametrize("exclude", [(), ("2.layers.0",)])
def test_additions_inside_a_layer_stay_in_float(exclude) -> None:
    batch = images()
    scheme = qs.Scheme(weight_bits=3, act_bits=3, residual="quantized", exclude=exclude)
    model = qs.prepare(stacked(Adapted(Scaled(4, 4, 1))), scheme, batch[:1])
    qs.calibrate(model, [batch]).eval()
    ((name, addition),) = additions(model).items()
    assert name == "2.additions.0"
    seen = {}
    model[2].register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    model[2].layers.register_forward_hook(lambda _, __, out: seen.update(y=out))
    model(batch)
    assert torch.equal(seen["out"], addition.left(seen["x"]) + addition.right(seen["y"]))
    for other in (copy.deepcopy(model), torch.compile(model, backend="aot_eager", fullgraph=True)):
        assert torch.equal(other(batch), model(batch))


class Chain(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


@pytest.mark.slow
def test_a_block_that_runs_its_children_does_not_run_its_additions() -> None:
    batch = images()
    chain = Chain(nn.Conv2d(4, 4, 1), nn.ReLU())
    model = prepared(stacked(chain), batch).eval()
    assert list(additions(model)) == ["2.additions.0"]
    assert (len(chain), chain[-1]) == (2, chain._modules["1"])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for other in (copy.deepcopy(model), compiled):
        assert torch.equal(other(batch), model(batch))


class Noisy(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.training:
            y = y + torch.zeros_like(y)
        return x + y


def test_an_addition_in_training_alone_is_refused_there() -> None:
    model = prepared(stacked(Noisy()), images())
    model.eval()(images())
    with pytest.raises(PrepareError, match=telling("Noisy", "2 times", "1 time")):
        model.train()(images())


class Skipping(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x + self.conv(x)


def test_a_forward_that_skips_all_its_additions_is_none_in_the_wrong_place() -> None:
    model = prepared(stacked(Skipping()), images()).train()
    assert model(images()).shape == (8, 3)


def test_float_is_the_default_and_adds_no_quantizer() -> None:
    scheme = qs.Scheme(weight_bits=3, act_bits=3)
    assert additions(qs.prepare(stacked(Block()), scheme, images(1))) == {}


def test_copies_and_pickles_compute_the_same() -> None:
    model = prepared(stacked(Block()), images()).eval()
    batch = images()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(batch), model(batch))
        assert isinstance(other[2], Block)


def test_a_state_dict_brings_the_scales_back() -> None:
    batch = images()
    model = prepared(stacked(Block()), batch).eval()
    scheme = qs.Scheme(weight_bits=3, act_bits=3, residual="quantized")
    other = qs.prepare(stacked(Block()), scheme, batch[:1]).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_a_block_keeps_its_signature() -> None:
    model = prepared(stacked(Block()), images())
    assert inspect.signature(model[2].forward) == inspect.signature(Block().forward)


def test_strip_gives_the_block_back() -> None:
    plain = qs.strip(prepared(stacked(Block()), images()))
    assert type(plain[2]) is Block
    assert not any(isinstance(module, FakeQuantizer) for module in plain.modules())


def test_operands_pass_their_gradients_and_scales_learn() -> None:
    model = prepared(stacked(Block()), images()).train()
    model(images()).square().sum().backward()
    (addition,) = additions(model).values()
    for quantizer in (addition.left, addition.right):
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad != 0
    assert model[0].latent.grad.abs().sum() > 0


@pytest.mark.slow
def test_compiled_whole_it_computes_the_same() -> None:
    model = prepared(stacked(Block()), images()).eval()
    batch = images()
    expected = model(batch)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(batch), expected)


def test_a_sum_whose_result_is_dropped_is_refused() -> None:
    class Dropped(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y.add_(x)
            return y

    scheme = qs.Scheme(residual="quantized")
    with pytest.raises(PrepareError, match=telling("x = x + y")):
        qs.prepare(stacked(Dropped()), scheme, images(1))


def test_bad_values() -> None:
    with pytest.raises(ValueError, match=telling("residual", "'integer'")):
        qs.Scheme(residual="integer")
    with pytest.raises(ValueError, match=telling("residual", "act_bits", "2 to 8", "None")):
        qs.Scheme(act_bits=None, residual="quantized")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4])
def test_a_short_training_on_tiny_data_lowers_the_loss(bits) -> None:
    batch, labels = torch.randn(32, 1, 28, 28), torch.arange(32) % 4
    batch += labels.view(-1, 1, 1, 1)  # four kinds of noise, by their brightness
    model = SmallMobileNetV2(num_classes=4)
    qs.reestimate_batchnorm(model, [batch], count=1)  # or all scales are found on tiny numbers
    prepared(model, batch, bits).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    weights = qs.quantized_weights(model)
    freezing = qs.Freezing(0.5)
    control = qs.Control(optimizer, weights, qs.OscillationTracker(weights), [freezing])
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(batch), labels) + control.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
