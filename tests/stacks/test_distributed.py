"""Networks of other toolkits in two processes, with DistributedDataParallel."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import quiesce as qs
from quiesce.errors import AttachError
from support.messages import telling
from support.processes import FORKSERVER, together
from support.stacks import IMAGES, LABELS, WORLDS, is_installed, own_adapter, own_network

STEPS = 8
TOOLKITS = ["brevitas.nn", "torchao", "executorch.backends.xnnpack", "modelopt", "aimet_torch"]
if any(is_installed(package.partition(".")[0]) for package in TOOLKITS):
    FORKSERVER.set_forkserver_preload(["quiesce.public", "pytest", *TOOLKITS])
TRAINED = ("brevitas-channel", "torchao-dynamic", "modelopt-channel", "aimet", "pt2e-xnnpack")


def frozen_in(rank: int, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Codes and frozen weights after some steps, with other images in each rank."""
    warnings.simplefilter("ignore")
    world = next(each for each in WORLDS if each.name == name)
    inner = world.build()
    weights = world.attach(inner)
    for weight in weights:
        for scale in weight.scale_parameters:
            scale.requires_grad_(False)
    model = DistributedDataParallel(inner, find_unused_parameters=name == "pt2e-xnnpack")
    learned = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1, momentum=0.9)
    tracker = qs.OscillationTracker(weights, momentum=0.2)
    control = qs.Control(optimizer, weights, tracker, [qs.Freezing(0.19, max_frozen=None)])
    for step in range(STEPS):
        noise = torch.Generator().manual_seed(10 * step + rank)
        images = IMAGES + 0.5 * torch.randn(IMAGES.shape, generator=noise)
        optimizer.zero_grad()
        (cross_entropy(model(images), LABELS) + control.penalty()).backward()
        optimizer.step()
        qs.verify_ranks(control)
    codes = {weight.name: weight.codes() for weight in weights}
    return codes, {weight.name: weight.frozen for weight in weights}


@pytest.mark.parametrize("name", TRAINED)
def test_all_ranks_freeze_the_same_weights(name: str, tmp_path: Path) -> None:
    """Folded running variances differ between ranks until the next forward pass of DDP."""
    world = next(each for each in WORLDS if each.name == name)
    if not world.installed:
        pytest.skip(f"{world.package} is not installed")
    (codes, frozen), (other_codes, other_frozen) = together(frozen_in, 2, tmp_path, name)
    for layer, mask in frozen.items():
        assert torch.equal(mask, other_frozen[layer]), layer
        assert torch.equal(codes[layer], other_codes[layer]), layer
    assert sum(int(mask.sum()) for mask in frozen.values()) > 0


def split(rank: int) -> str:
    from torch.distributed.fsdp import fully_shard

    model: nn.Module = own_network()
    adapter = own_adapter(model)
    fully_shard(model[3])
    try:
        qs.attach(model, adapter=adapter)
    except AttachError as error:
        return str(error)
    return ""


def test_split_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match=telling("3: ", "split", "DDP")):
        raise AttachError(together(split, 1, tmp_path)[0])
