"""Weight groups: parameters own their memory, and passes over blocks reach every weight."""

import copy

import pytest
import torch
from torch import nn

import quiesce as qs
from quiesce.errors import TrackingError
from quiesce.oscillation import weight_blocks as module
from quiesce.oscillation.selected_weights import SelectedWeights
from quiesce.oscillation.weight_blocks import GatheredBlock, LayerBlock, weight_blocks
from quiesce.oscillation.weight_group import weight_groups
from support.small_networks import Walk, prepared_network


def owns_its_memory(values: torch.Tensor) -> bool:
    return values.untyped_storage().nbytes() == values.numel() * values.element_size()


@pytest.mark.parametrize("cures", [[], [qs.Freezing(0.2, max_frozen=None)], [qs.Dampening(0.1)]])
def test_every_parameter_owns_its_memory_at_all_times(cures) -> None:
    model = prepared_network()
    walk = Walk(model, cures, momentum=0.1)

    def held() -> dict[str, torch.Tensor]:
        return dict(model.named_parameters()) | dict(model.named_buffers())

    before = {name: value.data_ptr() for name, value in held().items()}
    for _ in range(3):
        walk.at_random(1)
        now = held()
        assert all(map(owns_its_memory, now.values()))
        assert {name: value.data_ptr() for name, value in now.items()} == before


@pytest.fixture(params=["gathered", "by layer", "mixed"])
def blocks(request, monkeypatch) -> str:
    """How layers become blocks: all in one buffer, each by itself and in parts, or both."""
    if request.param == "by layer":
        monkeypatch.setattr(module, "_IN_PLACE", {"cpu": 1})
        monkeypatch.setattr(module, "LARGEST", 128)
    if request.param == "mixed":
        monkeypatch.setattr(module, "_IN_PLACE", {"cpu": 256})
    return request.param


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_block_reads_every_weight_with_its_scale_at_its_place(blocks, per_channel) -> None:
    model = prepared_network(per_channel=per_channel)
    kinds = set()
    for group in weight_groups(qs.quantized_weights(model)):
        latents, scales = group.zeros(), group.zeros()
        for block in weight_blocks(group):
            kinds.add(type(block))
            now = block.read()
            block.of(latents).copy_(now.latent)
            block.of(scales).copy_(now.scale.expand_as(now.latent))
        for i, weight in enumerate(group.weights):
            assert torch.equal(group.layer(latents, i), weight.latent)
            assert torch.equal(group.layer(scales, i), weight.scale.expand_as(weight.latent))
            where = torch.arange(weight.latent.numel()) + group.starts[i]
            assert group.count(where).tolist() == [
                len(where) * (j == i) for j in range(len(group.weights))
            ]
            entries = SelectedWeights(group, where).read()
            assert torch.equal(entries.latent, latents[where])
            assert torch.equal(entries.scale, scales[where])
    assert (
        kinds
        == {
            "gathered": {GatheredBlock},
            "by layer": {LayerBlock},
            "mixed": {GatheredBlock, LayerBlock},
        }[blocks]
    )


@pytest.mark.parametrize(
    ("mode", "per_channel"),
    [
        ("off", False),
        ("off", True),
        pytest.param("quantizers", False, marks=pytest.mark.slow),
        pytest.param("quantizers", True, marks=pytest.mark.slow),
    ],
)
def test_blocks_of_any_size_track_freeze_and_dampen_to_the_same_bits(
    monkeypatch, per_channel: bool, mode
) -> None:
    def run(in_place: int, largest: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        monkeypatch.setattr(module, "_IN_PLACE", {"cpu": in_place})
        monkeypatch.setattr(module, "LARGEST", largest)
        model = qs.compile(prepared_network(per_channel=per_channel), mode)
        cures = [qs.Freezing(0.15, max_frozen=None), qs.Dampening(0.1, "kernel_mean")]
        walk = Walk(model, cures, momentum=0.1)
        walk.at_random(12)
        walk.control.penalty().backward()
        found = dict(model.state_dict())
        for weight in walk.weights:
            found[f"{weight.name} F"] = walk.tracker.frequency(weight.name)
            found[f"{weight.name} D"] = walk.tracker.average(weight.name)
            found[f"{weight.name} grad"] = weight.latent.grad
        assert any(weight.frozen.any() for weight in walk.weights)
        return found

    whole, apart = run(2**18, 2**22), run(1, 128)
    assert whole.keys() == apart.keys()
    for name, values in whole.items():
        assert torch.equal(values, apart[name]), name


def test_masks_freeze_what_indices_freeze() -> None:
    """An accelerator freezes whole blocks by masks; here the same on a CPU."""

    def run(on_cpu: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        walk = Walk(prepared_network(), [qs.Freezing(0.15, max_frozen=None)], momentum=0.1)
        for group in walk.tracker.groups:
            group.on_cpu = on_cpu
        walk.at_random(12)
        return [each for w in walk.weights for each in (w.latent.detach(), w.history)]

    assert all(map(torch.equal, run(True), run(False)))


def test_a_copy_of_the_model_has_memory_of_its_own() -> None:
    model = prepared_network()
    tracker = qs.OscillationTracker(qs.quantized_weights(model))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in qs.quantized_weights(twin):
            weight.latent.add_(1.0)
    originals = {weight.name: weight for weight in tracker.weights}
    for weight in qs.quantized_weights(twin):
        torch.testing.assert_close(weight.latent, originals[weight.name].latent + 1.0)


def test_a_weight_whose_storage_was_replaced_is_read_where_it_is_now() -> None:
    walk = Walk(prepared_network(), [qs.Freezing(0.2, max_frozen=None)], momentum=0.1)
    walk.at_random(3)
    for weight in walk.weights:
        weight.latent.data = weight.latent.detach() + 2 * weight.scale  # as other libraries do
    moved = {weight.name: weight.codes() for weight in walk.weights}
    walk.tracker.step()
    for weight in walk.weights:
        assert torch.equal(weight.codes(), moved[weight.name])
        frozen = weight.frozen
        codes = weight.layout.quant_min + (weight.history & 15).to(torch.int8)
        assert torch.equal(codes[~frozen], moved[weight.name][~frozen])


def test_another_dtype_is_refused_with_what_to_do() -> None:
    model = prepared_network()
    tracker = qs.OscillationTracker(qs.quantized_weights(model))
    model.double()
    with pytest.raises(TrackingError, match=r"float32 .*float64"):
        tracker.step()


def test_large_layers_are_not_copied() -> None:
    model = nn.Sequential(nn.Linear(1024, 512))
    qs.prepare(model, qs.Scheme(act_bits=None, first_last_bits=None), torch.zeros(1, 1024))
    [group] = weight_groups(qs.quantized_weights(model))
    [block] = weight_blocks(group)
    now = block.read()
    assert now.latent.data_ptr() == model[0].weight.data_ptr()
    block.settle(now)
    block.write_back()
    assert now.latent.data_ptr() == model[0].weight.data_ptr()
