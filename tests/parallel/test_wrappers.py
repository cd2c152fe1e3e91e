"""Wrappers of torch, Lightning and timm: the same names and results as without them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import pytest
import timm
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import quiesce as qs
from quiesce.errors import PrepareError
from quiesce.parallel.wrappers import module_named, named_modules, named_parameters
from support.small_networks import small_network

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def parts_wrapped(how: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Sequential], nn.Module]:
    def wrap(model: nn.Sequential) -> nn.Module:
        model[3], model[6] = how(model[3]), how(model[6])
        return model

    return wrap


compiled = partial(torch.compile, backend="aot_eager")
WRAPPERS = {
    "torch.compile": compiled,
    "torch.compile of parts": parts_wrapped(compiled),
    "checkpoint_wrapper of parts": parts_wrapped(checkpoint_wrapper),
    "DataParallel": DataParallel,
    "AveragedModel": AveragedModel,
    "Fabric": lambda model: lightning.Fabric(accelerator="cpu", devices=1).setup(model),
    "all": lambda model: compiled(DataParallel(parts_wrapped(checkpoint_wrapper)(model))),
}
wrapped_by = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())


def prepared(model: nn.Module, **patterns: list[str]) -> nn.Module:
    qs.prepare(model, qs.Scheme(weight_bits=4, act_bits=4, **patterns), X)
    return qs.calibrate(model, [X])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@wrapped_by
def test_names_and_patterns_are_those_without_wrappers(wrap: Callable[..., nn.Module]) -> None:
    plain, wrapped = small_network(), wrap(small_network())
    names = [name for name, _ in named_modules(wrapped)]
    assert names == [name for name, _ in plain.named_modules()]
    parameters = [name for name, _ in named_parameters(wrapped)]
    assert parameters == [name for name, _ in plain.named_parameters()]
    for name, module in named_modules(wrapped):
        assert module_named(wrapped, name) is module
    prepared(wrapped, exclude=["3"])
    assert [weight.name for weight in qs.quantized_weights(wrapped)] == ["0", "6"]
    assert [layer.name for layer in qs.describe(wrapped).layers] == ["0", "6"]


@wrapped_by
def test_a_wrapped_model_gets_the_scales_of_the_plain_one(wrap: Callable[..., nn.Module]) -> None:
    plain = small_network()
    wrapped = wrap(small_network())
    for (_, mine), (_, theirs) in zip(
        named_parameters(wrapped), named_parameters(plain), strict=True
    ):
        mine.data.copy_(theirs.data)
    prepared(plain)
    prepared(wrapped)
    state = dict(named_parameters(wrapped))
    assert state.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(state[name], value) for name, value in plain.named_parameters())


def tracked(model: nn.Module) -> tuple[qs.OscillationTracker, torch.optim.Optimizer]:
    weights = qs.quantized_weights(model)
    tracker = qs.OscillationTracker(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    qs.Control(optimizer, weights, tracker)
    return tracker, optimizer


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch, while it compiles
@wrapped_by
def test_what_is_tracked_stripped_and_exported_is_as_without_wrappers(
    wrap: Callable[..., nn.Module], tmp_path: Path
) -> None:
    wrapped = wrap(prepared(small_network()))
    tracker, optimizer = tracked(wrapped)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(X).square().sum().backward()
        optimizer.step()
    assert [report.name for report in tracker.report()] == ["0", "3", "6"]
    fresh = prepared(small_network())
    tracked(fresh)[0].load_state_dict(tracker.state_dict())
    stripped = qs.strip(wrapped)
    assert type(stripped) is nn.Sequential
    assert list(stripped.state_dict()) == list(small_network().state_dict())
    wrapped.eval()
    path = tmp_path / "network.onnx"
    qs.export_onnx(wrapped, path, X)
    assert qs.verify_onnx(wrapped, path, [X]).passed


def test_an_average_of_timm_is_seen_through(tmp_path: Path) -> None:
    model = prepared(small_network())
    average = timm.utils.ModelEmaV3(model)
    assert [weight.name for weight in qs.quantized_weights(average)] == ["0", "3", "6"]
    assert type(qs.strip(average)) is nn.Sequential
    qs.export_onnx(average, tmp_path / "average.onnx", X)
    assert qs.verify_onnx(average, tmp_path / "average.onnx", [X]).passed


def test_a_model_in_ddp_is_not_prepared(tmp_path: Path) -> None:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(small_network())
        with pytest.raises(PrepareError, match="DistributedDataParallel"):
            prepared(wrapped)
        wrapped = DistributedDataParallel(prepared(small_network()))
        assert [weight.name for weight in qs.quantized_weights(wrapped)] == ["0", "3", "6"]
    finally:
        distributed.destroy_process_group()


class Named(nn.Module):
    """A model whose part is called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = small_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)


def test_a_part_that_is_called_module_keeps_its_name() -> None:
    weights = qs.quantized_weights(prepared(Named()))
    assert [weight.name for weight in weights] == ["module.0", "module.3", "module.6"]
