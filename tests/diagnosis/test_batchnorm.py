"""Population statistics for the length of a block, and what they tell of each batch norm."""

import pytest
import torch

import quiesce as qs
from quiesce.diagnosis import diagnose_batchnorm, has_statistics, population_statistics
from quiesce.errors import NothingToDoError
from support.small_networks import prepared_network


@pytest.fixture
def network():
    network = prepared_network()
    network.train()
    network(torch.rand(4, 3, 6, 6))  # running statistics of a few images
    return network


@pytest.fixture
def batches():
    return [torch.rand(8, 3, 6, 6) for _ in range(3)]


def test_in_the_block_they_are_re_estimated(network, batches):
    expected = prepared_network()
    expected.load_state_dict(network.state_dict())
    divergence = qs.reestimate_batchnorm(expected, batches)
    with population_statistics(network, batches) as kl:
        assert torch.equal(network[1].running_var, expected[1].running_var)
    assert torch.equal(kl["1"], divergence["1"])


def test_afterwards_all_is_as_it_was(network, batches):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes, numbers = [m.training for m in network.modules()], torch.get_rng_state()
    with population_statistics(network, batches):
        torch.rand(3)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)


def test_also_when_the_block_raises(network, batches):
    before = network[1].running_mean.clone()
    with pytest.raises(KeyError), population_statistics(network, batches):
        raise KeyError("an accident")
    assert torch.equal(network[1].running_mean, before)


def test_only_so_many_batches_are_read(network, batches):
    stream = iter(batches)
    with population_statistics(network, stream, 2):
        assert len(list(stream)) == 1


def test_a_network_without_batch_norm_has_none(batches):
    layer = torch.nn.Linear(3, 4)
    assert not has_statistics(layer)
    with pytest.raises(NothingToDoError), population_statistics(layer, batches):
        pass


def test_each_norm_is_told_with_the_layer_that_feeds_it(network, batches):
    with population_statistics(network, batches) as kl:
        (norm,) = diagnose_batchnorm(network, kl, batches[0][:1])
    assert (norm.name, norm.feeds_from, norm.kind, norm.channels) == ("1", "0", "full", 4)
    assert norm.kl_mean == pytest.approx(kl["1"].mean().item())
    assert norm.kl_max == norm.kl_quantiles["1"] == kl["1"].max().item()
    assert norm.kl_max > 0
