"""The file of the finished network and its description."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import quiesce as qs
from quiesce.files.weight_files import load_weights, read_weights
from quiesce.run_folder.network_file import describe, save_network
from support.network_file import read_description


def prepared(**scheme):
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    qs.prepare(network, qs.Scheme(**scheme), torch.ones(1, 3))
    return qs.calibrate(network, [torch.randn(5, 3)])


def test_the_description_names_tensors_that_are_there(tmp_path):
    network = prepared(weight_bits=3, act_bits=3, learn_offset=True)
    save_network(network, tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    description = read_description(tmp_path / "a.safetensors")
    assert description == describe(network)
    assert description["version"] == 1
    middle = description["layers"]["1"]
    assert (middle["weight"]["bits"], middle["weight"]["quant_min"]) == (3, -4)
    assert middle["input"]["offset"] in tensors
    assert middle["weight"]["scale"] in tensors


def test_codes_can_be_had_from_the_file_alone(tmp_path):
    network = prepared(weight_bits=3)
    save_network(network, tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    for weight in qs.quantized_weights(network):
        told = read_description(tmp_path / "a.safetensors")["layers"][weight.name]["weight"]
        codes = (tensors[f"{weight.name}.weight"] / tensors[told["scale"]]).round()
        codes = codes.clamp(told["quant_min"], told["quant_max"])
        assert torch.equal(codes.to(torch.int8), weight.codes())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.layer(x)


def test_operands_of_additions_are_described():
    network = nn.Sequential(nn.Linear(3, 3), Residual(), nn.Linear(3, 2))
    scheme = qs.Scheme(weight_bits=3, act_bits=3, residual="quantized")
    qs.prepare(network, scheme, torch.ones(1, 3))
    qs.calibrate(network, [torch.randn(5, 3)])
    (addition,) = describe(network)["additions"].items()
    assert addition[0] == "1.additions.0"
    assert {side: each["bits"] for side, each in addition[1].items()} == {"left": 3, "right": 3}
    assert addition[1]["left"]["scale"] in network.state_dict()


def test_a_saved_network_loads_into_a_prepared_one(tmp_path):
    one, other = prepared(per_channel=True), prepared(per_channel=True)
    save_network(one, tmp_path / "a.safetensors")
    load_weights(other, read_weights(tmp_path / "a.safetensors"), source="a")
    images = torch.randn(7, 3)
    assert torch.equal(one(images), other(images))


def test_shared_tensors_are_written_under_each_name(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    save_network(network, tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == set(network.state_dict())


def test_a_float_network_has_no_quantized_layer(tmp_path):
    save_network(nn.Linear(2, 2), tmp_path / "a.safetensors")
    assert read_description(tmp_path / "a.safetensors")["layers"] == {}
    assert read_description(tmp_path / "a.safetensors")["additions"] == {}


def test_layers_in_activation_checkpointing_have_the_names_of_their_tensors(tmp_path):
    network = prepared()
    for name, module in list(network.named_children()):
        network.set_submodule(name, checkpoint_wrapper(module))
    save_network(network, tmp_path / "a.safetensors")
    tensors, described = (
        load_file(tmp_path / "a.safetensors"),
        read_description(tmp_path / "a.safetensors"),
    )
    for layer in described["layers"].values():
        assert layer["weight"]["scale"] in tensors
