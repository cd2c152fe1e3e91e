"""Torch's encoder modules compute with quantized weights in inference too."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import quiesce as qs
from support.small_networks import weights_only

OUT = ("*out_proj",)


class Encoder(nn.Module):
    """A small encoder, whose padding mask asks for nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embed = nn.Linear(8, 16)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[1, 3:] = True
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=padding))[~padding]


def single() -> nn.Module:
    """One encoder layer between two linear ones."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 4))


@pytest.fixture(params=[single, Encoder])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param().eval()


X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act_bits", [None, 4])
def test_inference_gives_the_quantized_output(network: nn.Module, act_bits: int | None) -> None:
    qs.prepare(network, weights_only(act_bits=act_bits, exclude=OUT), X)
    qs.calibrate(network, [X])
    expected = network(X)  # with gradients torch never takes the fused path
    for model in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        with torch.no_grad():
            torch.testing.assert_close(model(X), expected)
    with torch.inference_mode():
        torch.testing.assert_close(network(X), expected)


def test_compiled_it_is_quantized_too(network: nn.Module) -> None:
    qs.prepare(network, weights_only(exclude=OUT), X)
    expected = network(X).detach()
    program = torch.export.export(network, (X,)).module()
    torch.testing.assert_close(program(X), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_strip_gives_the_fused_path_back(network: nn.Module) -> None:
    before = {name: getattr(m, "use_nested_tensor", None) for name, m in network.named_modules()}
    qs.prepare(network, weights_only(exclude=OUT), X)
    plain = qs.strip(network)
    assert not any(module._forward_pre_hooks for module in plain.modules())
    after = {name: getattr(m, "use_nested_tensor", None) for name, m in plain.named_modules()}
    assert after == before
    with torch.no_grad():
        torch.testing.assert_close(plain(X), network(X))


def test_an_encoder_whose_layers_stay_in_float_keeps_its_fused_path(network: nn.Module) -> None:
    exclude = [n for n, m in network.named_modules() if n.endswith(("linear1", "linear2"))]
    qs.prepare(network, weights_only(exclude=[*OUT, *exclude]), X)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_an_attention_outside_of_an_encoder_computes_alike_with_and_without_gradients() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    model = Attends().eval()
    with pytest.raises(qs.QuiesceError, match=r"attention\.out_proj"):
        qs.prepare(model, weights_only(), X)
    qs.prepare(model, weights_only(exclude=["attention.out_proj"]), X)
    with torch.no_grad():
        fused = model(X)
    torch.testing.assert_close(fused, model(X))
