"""Re-estimation of batch-norm statistics."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from quiesce.cures.batchnorm_reestimation import gaussian_kl, reestimate_batchnorm
from quiesce.errors import DivergedError, NothingToDoError
from support.processes import together

REFERENCE = np.load(Path(__file__).parents[1] / "golden" / "reference.npz")


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, momentum=None),
    )


def some_batches(count: int = 6) -> Tensor:
    return torch.randn(count, 8, 3, 7, 7) * 2 + 1


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_as_before(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_statistics_equal_the_reference() -> None:
    data = {
        key.removeprefix("bn/"): torch.from_numpy(REFERENCE[key]).float()
        for key in REFERENCE
        if key.startswith("bn/")
    }
    codes = (data["weight"] / data["weight_scale"]).round().clamp(-8, 7)
    norm = nn.BatchNorm2d(8)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            u = (x / data["input_scale"]).round()
            x = data["input_scale"] * u.clamp(data["input_quant_min"], data["input_quant_max"])
            return self.norm(F.conv2d(x, data["weight_scale"] * codes, padding=1))

    reestimate_batchnorm(Network(), data["x"])
    torch.testing.assert_close(norm.running_mean, data["running_mean"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(norm.running_var, data["running_var"], rtol=1e-5, atol=0)


def test_statistics_equal_those_of_update_bn_with_dropout_asleep() -> None:
    model, batches = small_network(), some_batches()
    other = copy.deepcopy(model)
    other[3] = nn.Identity()
    torch.optim.swa_utils.update_bn(batches, other)
    reestimate_batchnorm(model, batches)
    for index in (1, 5):
        torch.testing.assert_close(model[index].running_mean, other[index].running_mean)
        torch.testing.assert_close(model[index].running_var, other[index].running_var)


def test_modes_momenta_and_parameters_come_back() -> None:
    model = small_network()
    model[5].eval()
    before = copy.deepcopy(model)
    reestimate_batchnorm(model, some_batches())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [model[1].momentum, model[5].momentum] == [0.3, None]
    for parameter, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old)


def test_everything_is_as_before_when_the_model_raises() -> None:
    model, batches = small_network(), [*some_batches(2), torch.zeros(8, 1, 7, 7)]
    before = buffers(model)
    with pytest.raises(RuntimeError, match="channels"):
        reestimate_batchnorm(model, batches)
    assert_as_before(model, before)
    assert [model[1].momentum, model[5].momentum] == [0.3, None]
    assert all(module.training for module in model.modules())


def test_reads_at_most_count_batches_and_takes_tuples() -> None:
    model, batches = small_network(), some_batches()
    other = copy.deepcopy(model)
    stream = iter([(batch, torch.zeros(8)) for batch in batches])
    reestimate_batchnorm(model, stream, count=4)
    reestimate_batchnorm(other, batches[:4])
    assert len(list(stream)) == 2
    assert torch.equal(model[1].running_mean, other[1].running_mean)


def test_returns_kl_of_new_from_old_per_channel() -> None:
    model = small_network()
    old = Normal(torch.zeros(4), torch.ones(4).add(model[1].eps).sqrt())
    moved = reestimate_batchnorm(model, some_batches())
    new = Normal(model[1].running_mean, (model[1].running_var + model[1].eps).sqrt())
    assert list(moved) == ["1", "5"]
    torch.testing.assert_close(moved["1"], kl_divergence(new, old))
    assert not moved["1"].requires_grad


def test_a_second_time_moves_nothing() -> None:
    model, batches = small_network(), some_batches()
    reestimate_batchnorm(model, batches)
    again = reestimate_batchnorm(model, batches)
    for divergence in again.values():  # of float32 statistics that agree to rounding
        torch.testing.assert_close(divergence, torch.zeros_like(divergence), rtol=0, atol=1e-6)


def test_a_layer_that_no_forward_reaches_keeps_its_statistics() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Forked()
    model.idle.running_mean += 2
    before = {name: buffer.clone() for name, buffer in model.idle.named_buffers()}
    moved = reestimate_batchnorm(model, some_batches())
    assert_as_before(model.idle, before)
    assert torch.equal(moved["idle"], torch.zeros(3))
    assert (moved["used"] > 0).all()


def test_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`count` must be at least 1 batch, got 0"):
        reestimate_batchnorm(small_network(), some_batches(), count=0)


def test_a_model_without_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(NothingToDoError, match="Sequential has no batch norm with running"):
        reestimate_batchnorm(model, [torch.zeros(4, 2)])


def test_no_batches_are_refused_and_change_nothing() -> None:
    model = small_network()
    before = buffers(model)
    with pytest.raises(NothingToDoError, match="`batches` is empty"):
        reestimate_batchnorm(model, [])
    assert_as_before(model, before)


def test_statistics_that_are_not_finite_are_named_and_undone() -> None:
    model = small_network()
    before = buffers(model)
    with pytest.raises(DivergedError, match="batch norm '1' met numbers that are not finite"):
        reestimate_batchnorm(model, torch.full((1, 8, 3, 7, 7), torch.nan))
    assert_as_before(model, before)


def test_gaussian_kl_equals_torch_distributions() -> None:
    mean, ref_mean = torch.randn(2, 100, dtype=torch.float64)
    var, ref_var = torch.rand(2, 100, dtype=torch.float64) * 3 + 1e-3
    expected = kl_divergence(Normal(mean, var.sqrt()), Normal(ref_mean, ref_var.sqrt()))
    torch.testing.assert_close(gaussian_kl(mean, var, ref_mean, ref_var), expected)


def work_of_one_rank(rank: int, batches: Tensor, state: dict) -> tuple[dict, ...]:
    """Re-estimate on this rank's share; rank 0 reads four batches, rank 1 two, the last none."""
    model = small_network()
    model.load_state_dict(state)
    wrapped = nn.parallel.DistributedDataParallel(model)
    share = (batches[:4], batches[4:], batches[:0])[rank]
    moved = reestimate_batchnorm(wrapped, share)
    return dict(moved), dict(model.state_dict())


@pytest.mark.slow
def test_ranks_end_with_the_average_over_all_their_batches(tmp_path: Path) -> None:
    batches, alone = some_batches(), small_network()
    ranks = together(work_of_one_rank, 3, tmp_path, batches, alone.state_dict())
    moved_alone = dict(reestimate_batchnorm(alone, batches))
    for moved, state in ranks:
        torch.testing.assert_close(moved, moved_alone)
        torch.testing.assert_close(state, dict(alone.state_dict()))
